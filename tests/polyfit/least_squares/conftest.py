"""Assertions of the helpers beside the tests are explained as those of tests are."""

import pytest

pytest.register_assert_rewrite("fit_closeness", "result_cases")
