"""The same for the recipe of GPST, in a file of its own so that two processes share the work."""

from faults.test_power import (  # noqa: F401 (collected here as well)
    pytestmark,
    test_a_recipe_that_is_struck_in_every_stage_makes_what_an_undisturbed_one_makes,
    test_of_two_runs_at_once_the_second_names_the_first,
    undisturbed,
)

MODEL = "gpst1"
