"""deltactl: world models on frozen video features, preprocessing first.

Rooms of the house, in the order data flows: `ingest` (videos to shards), `featurize` (shards to a feature
store), `train` (features to a tokenizer, tokens and a world model), `evaluate` (checkpoints to numbers).
What all of them share: `artifacts`, `locations`, `engine`, `errors`, `configs`.

Importing this package is cheap; torch and friends load with the room that needs them.
"""

__version__ = "0.1.0"
