"""Ranges that are drawn from, as options and in files: one text each, exact numbers, and one line for what is none."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from deltactl.cli import program
from deltactl.configs.base import parse
from deltactl.configs.featurize import FeaturizeConfig
from deltactl.configs.ingest import IngestConfig
from deltactl.configs.show import to_yaml
from deltactl.configs.values import parse_range, range_text
from deltactl.configs.yaml_text import read_yaml_mapping


@pytest.mark.parametrize(
    ("command", "option", "value", "said"),
    [
        *(
            ("ingest", "--stride", bad, "expected seconds as A:B with 0 < A <= B, such as 0.04:1/3")
            for bad in ("0", "0:1", "0.3:0.1", "-1", "1/0", "soon")
        ),
        *(("featurize", "--crop-area", bad, "with 0 < A <= B <= 1") for bad in ("0:1", "0.5:1.1", "1:0.5")),
        *(("tokenize", "--aspect", bad, "expected ratios of width to height") for bad in ("0", "0:1", "4/3:3/4")),
        ("featurize", "--aspect", "wide", "expected ratios of width to height"),
        ("featurize", "--flip", "1.5", "0<=x<=1"),
        ("featurize", "--flip", "-0.1", "0<=x<=1"),
    ],
)
def test_ranges_that_cannot_be_drawn_from_are_refused(command: str, option: str, value: str, said: str) -> None:
    result = CliRunner().invoke(program, [command, "somewhere", option, value])
    assert result.exit_code == 2
    assert value in result.output.replace("\n", " ")
    assert said in " ".join(result.output.split())


def test_a_range_has_one_text_and_comes_back_from_it_exactly() -> None:
    assert parse_range("3/4:4/3") == (3 / 4, 4 / 3)
    assert parse_range(range_text((1 / 25, 1 / 3))) == (1 / 25, 1 / 3)
    assert IngestConfig(stride="1/25:1/3").stride == IngestConfig().stride == "0.04:1/3"
    assert parse(IngestConfig, {"stride": 0.2}).stride == IngestConfig(stride="0.20:1/5").stride == "0.2"
    config = FeaturizeConfig(crop_area="1/2", aspect="3/4:4/3", flip=0.25)
    assert (config.crop_area, config.aspect) == ("0.5", "0.75:4/3")
    text = read_yaml_mapping(to_yaml(config, "featurize").encode(), "text")
    del text["stage"]
    assert parse(FeaturizeConfig, text) == config
