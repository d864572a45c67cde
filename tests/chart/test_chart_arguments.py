"""The programs take the arguments that the chart gives them, and understand them as meant."""

import argparse

import pytest
from support_chart import CI, RALB, Helm, Rendered, container, containers

from ralb_extproc import companion
from ralb_extproc import main as processor
from ralb_extproc.epp.options import options_of as picker_options
from ralb_operator import main as operator
from ralb_operator.bootstrap import bootstrap
from ralb_operator.cluster import tls
from ralb_operator.cluster.tls import Mode


@pytest.fixture(params=CI)
def case(request: pytest.FixtureRequest, helm: Helm) -> Rendered:
    return helm.case(request.param)


def arguments(case: Rendered, component: str, name: str) -> list[str]:
    return list(container(case.component("Deployment", component)["spec"]["template"], name)["args"])


def parse(parser: argparse.ArgumentParser, words: list[str]) -> argparse.Namespace:
    try:
        return parser.parse_args(words)
    except SystemExit as end:
        raise AssertionError(f"not understood: {words}") from end


def test_operator(case: Rendered) -> None:
    args = parse(operator.parser(), arguments(case, "operator", "operator"))
    options = operator.options(args)
    (port,) = (
        each["containerPort"]
        for each in container(case.component("Deployment", "gateway")["spec"]["template"], "envoy")["ports"]
        if each["name"] == "http"
    )
    assert options.gateway.port == port
    assert options.gateway.processor.startswith("unix:/")
    trust = tls.options_of(args)
    assert f"{trust.release}-operator" == case.component("Deployment", "operator")["metadata"]["name"]
    certificates = {each["metadata"]["name"] for each in case.of("Certificate")}
    gateway_has_tls = any("--tls-dir" in each for each in arguments(case, "gateway", "processor"))
    assert (trust.mode is not Mode.OFF) == gateway_has_tls
    assert (trust.mode is Mode.DIRECTORY) == bool(certificates)


def test_gateway(case: Rendered) -> None:
    args = parse(processor.command_line(), arguments(case, "gateway", "processor"))
    beside = companion.options_of(args)
    envoy = parse(operator.parser(), arguments(case, "gateway", "bootstrap"))
    assert beside.envoy_admin == f"127.0.0.1:{envoy.admin_port}"
    assert envoy.tls_dir == args.tls_dir
    config = bootstrap("n", envoy.operator, admin_port=envoy.admin_port, probe_port=envoy.probe_port)
    assert config["admin"]["address"]["socket_address"]["address"] == "127.0.0.1"
    limit = container(case.component("Deployment", "gateway")["spec"]["template"], "envoy")["resources"]["limits"]
    assert envoy.max_heap_bytes < mebibytes(limit["memory"]) * 2**20


def mebibytes(quantity: str) -> int:
    return int(quantity[:-2]) * {"Mi": 1, "Gi": 1024}[quantity[-2:]]


def test_picker(helm: Helm) -> None:
    case = helm.case("picker")
    args = parse(processor.command_line(), arguments(case, "epp", "picker"))
    assert args.listen == ""
    options = picker_options(args)
    assert options is not None
    assert options.pools == (("[::]:9002", "picker-system/llama"), ("[::]:9004", "team-a/qwen"))
    assert options.tls == "self-signed"
    assert options.health_listen == "[::]:9003"
    pod = case.component("Deployment", "epp")["spec"]["template"]["spec"]
    assert 0 < options.drain_least < options.drain_most < pod["terminationGracePeriodSeconds"]
    assert {port["port"] for port in case.component("Service", "epp")["spec"]["ports"]} == {9002, 9004}
    plain = {"epp": {"enabled": True, "tls": "Off", "pools": [{"pool": "a/b", "port": 9002}]}}
    rendered = Rendered(tuple(helm.template(RALB, values=plain)))
    off = picker_options(parse(processor.command_line(), arguments(rendered, "epp", "picker")))
    assert off is not None
    assert off.tls == "off"


def test_lists_are_passed_on_whole(helm: Helm) -> None:
    case = helm.case("namespaced")
    args = parse(operator.parser(), arguments(case, "operator", "operator"))
    assert operator.options(args).namespaces == ("team-a", "team-b")
    assert args.json_logs is False


def test_arguments_are_strings(case: Rendered) -> None:
    for _, template in case.pods():
        for each in containers(template):
            assert all(isinstance(word, str) for word in [*each.get("args", ()), *each.get("command", ())])
