"""Private names of other libraries are used only here, in one module for each library.

Each module wraps its library's private names in plainly named functions and classes. `VERSION` and `PARTS` say which version, and
which source of the parts that are used, was reviewed; `check()` raises LibraryChanged if the installed library is different.
Rules, such as what a client's message may contain, are in the rooms above.
"""
