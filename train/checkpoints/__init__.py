"""Networks as files, and files as networks."""
