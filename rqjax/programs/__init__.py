"""The verbs of the command line; nothing imports them but the quickstart, which is made of others."""
