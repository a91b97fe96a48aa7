"""How the numbers come about."""
