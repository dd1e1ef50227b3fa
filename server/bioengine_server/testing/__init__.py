"""`bioengine test`: linter, type checker and tests, from a bare checkout."""
