"""Who may use this server, with how much: tokens, what is asked of whom, limits."""
