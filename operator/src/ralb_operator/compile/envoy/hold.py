"""The first-token hold filter, delivered to Envoy inline with each pool cluster.

``hold.wat`` is the source; ``hold.wasm`` is assembled from it by ``make generate`` and drift-checked.
"""

from functools import cache
from importlib.resources import files

from envoy_data_plane.envoy.config.core.v3 import AsyncDataSource, DataSource
from envoy_data_plane.envoy.extensions.filters.http.wasm.v3 import Wasm
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.extensions.wasm.v3 import FailurePolicy, PluginConfig, VmConfig

from ralb_operator.compile.envoy.pack import typed


@cache
def hold_filter() -> HttpFilter:
    """The upstream filter that keeps response headers back until the first body byte.

    Without ``allow_on_headers_stop_iteration`` Envoy would stop the whole stream and never see that byte. If the filter
    fails, responses pass as if it were not there.
    """
    code = files("ralb_operator.compile.envoy").joinpath("hold.wasm").read_bytes()
    return HttpFilter(
        name="ralb.hold_first_token",
        typed_config=typed(
            Wasm(
                config=PluginConfig(
                    name="ralb.hold_first_token",
                    allow_on_headers_stop_iteration=True,
                    failure_policy=FailurePolicy.FAIL_OPEN,
                    vm_config=VmConfig(
                        vm_id="ralb.hold_first_token",
                        runtime="envoy.wasm.runtime.v8",
                        code=AsyncDataSource(local=DataSource(inline_bytes=code)),
                    ),
                )
            )
        ),
    )
