"""Features in; tokenizer, tokens and world model out. The networks themselves live here."""
