"""Names and addresses on the network: this server's own, its peers', and those of web pages."""
