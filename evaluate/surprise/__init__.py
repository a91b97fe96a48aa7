"""How far what came lies from what a world model had sampled."""
