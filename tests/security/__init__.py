"""What attackers do, and what stops them: one file for each subject. docs/threats.md has the table."""
