"""Who may use this server, and how much: tokens, access rules and limits."""
