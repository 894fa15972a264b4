"""Generated examples take as long as they take: how fast a machine is, is no property of ours."""

from hypothesis import HealthCheck, settings

settings.register_profile("patient", deadline=None, suppress_health_check=[
    HealthCheck.too_slow, HealthCheck.differing_executors])
settings.load_profile("patient")
