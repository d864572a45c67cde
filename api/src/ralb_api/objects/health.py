"""When a pod counts as unwell, and how many may be held back for it."""

from typing import ClassVar

from pydantic import Field

from ralb_api.objects.common import Constraint, Spec


class Health(Spec):
    """When a pod gets less work than its peers."""

    constraints: ClassVar = (
        Constraint(
            cel="!has(self.degradedErrorPercent) || !has(self.failedErrorPercent)"
            " || self.degradedErrorPercent <= self.failedErrorPercent",
            breach=lambda said: (
                None
                if said.degraded_error_percent <= said.failed_error_percent
                else f"they are {said.degraded_error_percent} and {said.failed_error_percent}"
            ),
            message="degradedErrorPercent must not be above failedErrorPercent",
            hint="2 and 5 are good values",
        ),
    )

    degraded_error_percent: int = Field(
        default=2,
        ge=1,
        le=100,
        description="degradedErrorPercent is the share of failed requests, in percent, from which on a pod is Degraded and "
        "gets less work than its peers. Defaults to 2.",
    )
    failed_error_percent: int = Field(
        default=5,
        ge=1,
        le=100,
        description="failedErrorPercent is the share of failed requests, in percent, from which on a pod is Failed and gets "
        "no more than probes. Defaults to 5.",
    )
    slow_percent: int = Field(
        default=200,
        ge=120,
        le=100_000,
        description="slowPercent is how long a pod takes for requests of the same size at the same load, in percent of its "
        "peers' time, to be Degraded; it then gets as much less work as it is slower. Give pods of different hardware "
        "pools of their own, or a larger value. Defaults to 200.",
    )
    max_ejected_percent: int = Field(
        default=50,
        ge=0,
        le=90,
        description="maxEjectedPercent is the largest share of the pool's pods, in percent, that may be held back for "
        "errors or slowness at the same time, the worst first. At 0 none is. Defaults to 50.",
    )
