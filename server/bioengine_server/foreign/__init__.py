"""The borders: private names of other libraries, one module for each library, and nowhere else.

Each module holds its library's private names behind plainly named functions and classes, and says with `VERSION` and `PARTS` what
they were when they were looked at; `check()` raises LibraryChanged where they are something else. Rules, such as what a client's
message may say, stand in the rooms above.
"""
