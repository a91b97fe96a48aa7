"""Stores of bfloat16: what float16 cannot hold, read by anybody's Zarr, and used like any other store."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tensorstore
import torch
import zarr
from safetensors.torch import load_file, save_file
from small_shards import training_shards
from small_stores import BACKBONE, contents, flip, run, tokens
from small_training import tokenizer_config

from deltactl.commands.info import describe
from deltactl.commands.verify import run_verify
from deltactl.errors import IdentityError, TooManyBadError
from deltactl.featurize.backbones.backbone import Backbone
from deltactl.featurize.store.layout import Layout
from deltactl.featurize.store.numbers import real_numbers, stored_numbers
from deltactl.featurize.store.reader import FeatureStore, TokenStore
from deltactl.train.run import train
