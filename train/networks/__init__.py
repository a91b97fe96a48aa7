"""Every module that is trained; nothing here reads a file of a run."""
