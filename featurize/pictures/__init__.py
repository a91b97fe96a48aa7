"""Features and text as pictures."""
