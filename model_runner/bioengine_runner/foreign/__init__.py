"""Private names of other libraries are used in this folder alone, in one module for each library.

Each module wraps them in plainly named functions. `VERSION` and `PARTS` say which version was reviewed, and which parts of its
source; `check()` raises LibraryChanged if what is installed differs.
"""
