"""The standard variables of OpenTelemetry, and what is said of those that cannot be meant."""

from __future__ import annotations

import pytest

from hearthnet.observability.otel.export.settings import SettingsError, read

BASE = "OTEL_EXPORTER_OTLP_"
URL = "http://a.b:4318"
SECRET = "s3cr3t-of-a-header"


def target(endpoint=URL, signal="traces", **variables):
    """The target of a signal, with variables of OTLP."""
    return read(endpoint, {BASE + name: value for name, value in variables.items()}).targets[signal]


def doubts(endpoint=URL, **variables):
    """What is doubted, on one line."""
    return " | ".join(read(endpoint, variables).doubts)


@pytest.mark.parametrize(
    ("endpoint", "variables", "traces", "logs"),
    [
        (URL, {}, f"{URL}/v1/traces", f"{URL}/v1/logs"),
        (f"{URL}/", {}, f"{URL}/v1/traces", f"{URL}/v1/logs"),
        (f"{URL}/otlp?key=1", {}, f"{URL}/otlp/v1/traces?key=1", f"{URL}/otlp/v1/logs?key=1"),
        (None, {"ENDPOINT": URL}, f"{URL}/v1/traces", f"{URL}/v1/logs"),
        (URL, {"ENDPOINT": "http://env"}, f"{URL}/v1/traces", f"{URL}/v1/logs"),
        (URL, {"TRACES_ENDPOINT": "https://t/x/"}, "https://t/x/", f"{URL}/v1/logs"),
        (None, {"TRACES_ENDPOINT": "https://t"}, "https://t", None),
        ("http://[::1]:4318", {}, "http://[::1]:4318/v1/traces", "http://[::1]:4318/v1/logs"),
    ],
)
def test_urls(endpoint, variables, traces, logs):
    """A base URL gets the path of the signal, a signal's own is used as it is."""
    found = read(endpoint, {BASE + name: value for name, value in variables.items()}).targets

    assert found["traces"].url == traces
    assert (found["logs"].url if "logs" in found else None) == logs


@pytest.mark.parametrize(
    ("endpoint", "variables"),
    [
        (None, {}),
        ("", {}),
        (None, {BASE + "ENDPOINT": " "}),
        (URL, {"OTEL_SDK_DISABLED": "True"}),
        (URL, {"OTEL_TRACES_EXPORTER": "none", "OTEL_LOGS_EXPORTER": "none"}),
    ],
)
def test_nothing_is_exported(endpoint, variables):
    """Without an endpoint, or where it is switched off."""
    assert read(endpoint, variables) is None


@pytest.mark.parametrize(
    ("exporter", "is_sent"), [("otlp", True), ("console, otlp", True), ("none", False), ("", True)]
)
def test_signal_is_switched_off_alone(exporter, is_sent):
    """By the variable that chooses its exporters."""
    assert ("logs" in read(URL, {"OTEL_LOGS_EXPORTER": exporter}).targets) is is_sent


@pytest.mark.parametrize("endpoint", ["localhost:4318", "ftp://a", "http://", "http://[::1", f"http://x:{SECRET}@a:b"])
def test_endpoint_that_is_no_url(endpoint):
    """Is an error that does not show it."""
    with pytest.raises(SettingsError) as raised:
        read(endpoint, {})

    assert "otlp_endpoint is no http or https URL" in raised.value.message
    assert SECRET not in f"{raised.value}{raised.value.hint}"


@pytest.mark.parametrize(
    ("text", "headers"),
    [
        ("api-key=x", {"api-key": "x"}),
        ("Authorization=Basic%20abc%3D%3D, b = two words ", {"authorization": "Basic abc==", "b": "two words"}),
        ("a=1,a=2,,", {"a": "2"}),
        ("a=x=y", {"a": "x=y"}),
        ("a=%0d%0ab: c,ok=1", {"ok": "1"}),
        ("bad name=1,ok=1", {"ok": "1"}),
    ],
)
def test_headers(text, headers):
    """Percent-decoded pairs; what would break a request is ignored."""
    assert target(HEADERS=text).headers == headers


def test_headers_of_a_signal_win():
    """Over those of all, one by one."""
    assert target(HEADERS="a=1,b=2", TRACES_HEADERS="B=3").headers == {"a": "1", "b": "3"}


def test_password_in_the_url():
    """Becomes a header, so that no error shows it."""
    found = target("https://me:p%40ss@a.b")

    assert (found.url, found.headers) == ("https://a.b/v1/traces", {"authorization": "Basic bWU6cEBzcw=="})


@pytest.mark.parametrize(
    ("endpoint", "header", "secrets"),
    [
        (URL, "authorization=Bearer%20tok-123456789", ["Bearer tok-123456789", "tok-123456789"]),
        (URL, "x-key=tok-123456789", ["tok-123456789"]),
        (URL, "x-key=two words", ["two words"]),
        (URL, "authorization=Basic%20%FF%FF", ["Basic \ufffd\ufffd", "\ufffd\ufffd"]),
        ("http://me:p%40ssw0rd!@a:4318", "", ["Basic bWU6cEBzc3cwcmQh", "bWU6cEBzc3cwcmQh", "p@ssw0rd!"]),
    ],
)
def test_secrets(endpoint, header, secrets):
    """A log line may have the token without its scheme, or the password alone."""
    assert read(endpoint, {BASE + "HEADERS": header}).secrets() == secrets


def test_bad_header_is_named_not_shown():
    """A pair without its sign may be the secret alone."""
    said = doubts(OTEL_EXPORTER_OTLP_HEADERS=f"{SECRET},a=1")

    assert "OTEL_EXPORTER_OTLP_HEADERS has an item" in said
    assert SECRET not in said
    assert SECRET not in repr(read(URL, {BASE + "HEADERS": f"key={SECRET}"}))
    assert SECRET in read(URL, {BASE + "HEADERS": f"key={SECRET}"}).secrets()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("", 10.0), ("5000", 5.0), ("10", 0.01), ("x", 10.0), ("0", 10.0), ("-1", 10.0), ("nan", 10.0)],
)
def test_timeout_is_in_milliseconds(text, seconds):
    """As the specification has it; what is no time counts as none."""
    assert target(TIMEOUT=text).timeout_s == seconds


def test_certificates_protocol_and_compression():
    """A signal's own win."""
    found = target(CERTIFICATE="/a", CLIENT_CERTIFICATE="/b", CLIENT_KEY="/c", TRACES_CERTIFICATE="/d",
                   PROTOCOL="http/json", COMPRESSION="gzip")  # fmt: skip

    assert (found.certificate, found.client_certificate, found.client_key) == ("/d", "/b", "/c")
    assert (found.is_json, found.is_gzip) == (True, True)
    assert (target().is_json, target().is_gzip) == (False, False)


@pytest.mark.parametrize(
    ("variables", "name", "attributes"),
    [
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=a,x=1%2C2"}, "a", {"x": "1,2"}),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=a", "OTEL_SERVICE_NAME": "b"}, "b", {}),
        ({}, None, {}),
    ],
)
def test_resource(variables, name, attributes):
    """OTEL_SERVICE_NAME wins."""
    found = read(URL, variables)

    assert (found.service_name, found.resource) == (name, attributes)


@pytest.mark.parametrize(
    ("endpoint", "variables", "said"),
    [
        ("http://a:4317", {}, "4317, that of gRPC"),
        (URL, {BASE + "PROTOCOL": "grpc"}, "gRPC has port 4317, HTTP 4318"),
        (URL, {BASE + "COMPRESSION": "zstd"}, "COMPRESSION is neither"),
        (URL, {BASE + "INSECURE": "true"}, "INSECURE has no effect"),
        (URL, {BASE + "TIMEOUT": "10"}, "10000"),
        (URL, {BASE + "TIMEOUT": "ten"}, "no number of milliseconds"),
        (f"{URL}/v1/traces", {}, "appended once more"),
        (f"{URL}?x=1", {}, "query"),
        (URL, {"OTEL_LOGS_EXPORTER": "zipkin"}, "OTEL_LOGS_EXPORTER"),
        (URL, {"OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN": "logs"}, ""),
        (URL, {}, ""),
    ],
)
def test_doubts(endpoint, variables, said):
    """Each usual mistake has a sentence, and what is right has none."""
    found = doubts(endpoint, **variables)

    assert said in found
    assert bool(found) is bool(said)
