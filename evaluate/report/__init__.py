"""Tables, charts, pictures, the page."""
