"""A misspelt setting of any analysis is answered with the nearest one."""

import inspect

import pytest

from ringlens import analysis
from ringlens.errors import ConfigError

FUNCTIONS = [name for name in analysis.__all__ if inspect.isfunction(getattr(analysis, name))]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_misspelt_setting_is_answered_with_the_nearest(name):
    function = getattr(analysis, name)
    setting = list(inspect.signature(function).parameters)[-1]
    with pytest.raises(ConfigError, match=f"Did you mean '{setting}'"):
        function(**{setting + setting[-1]: None})
