"""How many examples a property test runs; `make fuzz` multiplies it."""

from hypothesis import HealthCheck, settings

FUZZ_FACTOR = 40

# Quick and the same in every run, so that a red test is red for everybody. What the same programs
# could show they have shown: new ones are for `make fuzz`.
settings.register_profile(
    "default",
    deadline=None,
    derandomize=True,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "fuzz",
    parent=settings.get_profile("default"),
    derandomize=False,
    max_examples=50 * FUZZ_FACTOR,
    print_blob=True,
)


def examples(count: int) -> settings:
    """Decorate a property test with its own number of examples, still multiplied by `make fuzz`."""
    fuzzing = settings.get_current_profile_name() == "fuzz"
    return settings(max_examples=count * FUZZ_FACTOR if fuzzing else count)
