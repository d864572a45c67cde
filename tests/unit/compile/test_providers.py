"""Envoy's resources of providers: names, versions and what is kept of keys."""

from dataclasses import replace

from ralb_operator.compile.envoy.providers import Provider, provider_resources, provider_secrets
from ralb_operator.view import Gateway
from ralb_operator.xds.resources import SECRET, Resource, Resources

PROVIDER = Provider("ns/p", "api.example.com", 443, False, True, True, "api.example.com", True, True, "")


def test_only_the_secret_changes_with_the_key() -> None:
    one, other = (provider_secrets(PROVIDER, key, b"pem") for key in (b"sk-1", b"sk-2"))
    assert [each.name for each in one] == ["external/ns/p/key", "external/ns/p/ca"]
    assert {each.type_url for each in one} == {SECRET}
    assert one[0].version != other[0].version
    assert one[1] == other[1]
    assert provider_resources(PROVIDER, Gateway()) == provider_resources(replace(PROVIDER), Gateway())


def test_versions_of_secrets_are_not_the_hash_that_other_resources_have() -> None:
    (key, _) = provider_secrets(PROVIDER, b"sk-1", b"pem")
    assert key.version != Resource.of(key.type_url, key.name, key.body).version


def test_no_repr_has_the_key() -> None:
    secrets = provider_secrets(PROVIDER, b"sk-hidden", b"pem")
    assert b"sk-hidden" in secrets[0].body
    assert "sk-hidden" not in repr(secrets) + repr(Resources.of(secrets))


def test_without_secrets_there_are_none() -> None:
    assert provider_secrets(replace(PROVIDER, credentials=False, own_ca=False), b"", b"") == []
