"""What is said of a server's URL that does not lead to a BioEngine, with servers that are really there."""

from __future__ import annotations

import datetime
import http.server
import ipaddress
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from bioengine_contract.errors import BioEngineError
from bioengine_server.access.errors import TokenNeeded
from bioengine_server.images.address import check_address
from bioengine_server.images.advice import for_command_line
from bioengine_server.images.errors import (
    BadServerUrl,
    ConnectionLost,
    NoServer,
    NotABioEngine,
    UntrustedCertificate,
    WrongProtocol,
)
from bioengine_server.images.waiting import while_alive
from bioengine_server.network.http_get import WrongEnvironment
from bioengine_server.own_server import why_not_ready
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


@contextmanager
def serving(status: int, body: dict[str, str], location: str = "", context: ssl.SSLContext | None = None) -> Iterator[str]:
    """A server that gives one answer to everything; host and port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            if location:
                self.send_header("Location", location + self.path)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: object) -> None:
            pass

    class Quiet(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            pass

    server = Quiet(("127.0.0.1", 0), Handler)
    if context is not None:
        # The handshake belongs to the connection's thread.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that is its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a lab")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("certificate") / "lab.pem"
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(secret + made.public_bytes(serialization.Encoding.PEM))
    return file


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def said(kind: type[BioEngineError], url: str) -> str:
    with pytest.raises(kind) as caught:
        check_address(url)
    text = str(caught.value)
    assert "\n" not in text and "No BioEngine answers" not in text
    return text


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("localhost:9520", "http:// or https:// is missing. Write http://localhost:9520."),
        ("10.0.0.7:9520", "Write http://10.0.0.7:9520."),
        ("bioengine.lab", "Write http://bioengine.lab."),
        ("ws://localhost:9520/ws", "Write http://localhost:9520."),
        ("wss://bioengine.lab/ws", "Write https://bioengine.lab."),
        ("ftp://bioengine.lab", "ftp:// is not the beginning of one"),
        ("http://", "has no valid host"),
        ("http://localhost:95200", "Port out of range"),
        ("http://[::1", "is not the URL of a server"),
        ("", "http:// or https:// is missing. Expected a URL such as"),
        ("http://xn--a:9520", "its host is not a valid name"),
        ("http://a..b:9520", "its host is not a valid name"),
        (f"http://{'a' * 300}:9520", "its host is not a valid name"),
    ],
)
def test_what_is_no_url(url: str, expected: str) -> None:
    assert expected in said(BadServerUrl, url)


PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "no_proxy", "NO_PROXY")


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("SSL_CERT_FILE", "/nowhere/lab.pem", "SSL_CERT_FILE names /nowhere/lab.pem, .*No such file or directory.*PEM form"),
        ("SSL_CERT_FILE", "no.pem", "SSL_CERT_FILE names no.pem, from which no certificates can be read"),
        ("ALL_PROXY", "socks5://me:secret@127.0.0.1:1", "ALL_PROXY names a proxy of the kind socks5://, which is not supported"),
        ("http_proxy", "foo://x", "http_proxy names a proxy of the kind foo://, which is not supported"),
        ("http_proxy", "http://me:secret@x:port", "http_proxy is not the URL of a proxy"),
    ],
)
def test_an_environment_in_which_nothing_is_reached(
    variable: str, value: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said by whatever asks a server: before a run, for a demo; and while an answer is awaited it is none."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    Path("no.pem").write_text("hello")
    with serving(200, {"status": "OK"}) as place:
        url = f"http://{place}"
        monkeypatch.setenv(variable, value)
        text = said(WrongEnvironment, url)
        assert re.search(expected, text) and "secret" not in text
        with pytest.raises(WrongEnvironment):
            why_not_ready(url)
        with pytest.raises(ConnectionLost):
            while_alive(threading.Event().wait, url, interval=0.02, patience=0.1)


def test_nobody_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(NoServer, match="No BioEngine answers"):
        check_address(f"http://127.0.0.1:{port}")


def test_an_answer(certificate: Path, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(200, {"status": "OK"}) as place:
        check_address(f"http://{place}")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with serving(200, {"status": "OK"}, context=tls) as place:
        check_address(f"https://{place}")


def test_https_to_a_server_of_http() -> None:
    with serving(200, {"status": "OK"}) as place:
        assert f"speaks http, not https. Use http://{place}" in said(WrongProtocol, f"https://{place}")


def test_http_to_a_server_of_https(tls: ssl.SSLContext) -> None:
    with serving(200, {"status": "OK"}, context=tls) as place:
        assert f"speaks https, not http. Use https://{place}" in said(WrongProtocol, f"http://{place}")
    with serving(400, {"error": "Client sent an HTTP request to an HTTPS server."}) as place:
        assert f"Use https://{place}" in said(WrongProtocol, f"http://{place}")
    with serving(308, {}, location="https://bioengine.lab") as place:
        assert "Use https://bioengine.lab (" in said(WrongProtocol, f"http://{place}")


def test_a_certificate_that_is_not_trusted(tls: ssl.SSLContext) -> None:
    with serving(200, {"status": "OK"}, context=tls) as place:
        text = said(UntrustedCertificate, f"https://{place}")
    assert "self-signed certificate" in text and "SSL_CERT_FILE" in text


def test_a_certificate_for_another_name(certificate: Path, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with serving(200, {"status": "OK"}, context=tls) as place:
        text = said(UntrustedCertificate, f"https://localhost:{place.split(':')[1]}")
    assert "Hostname mismatch" in text and "Use the name that it is for" in text


def test_something_else_answers() -> None:
    with serving(404, {"error": "Nothing here"}) as place:
        assert "it answers 404. Give the server's own URL" in said(NotABioEngine, f"http://{place}")
    with serving(421, {"error": "This server has other names."}) as place:
        assert "it answers 421: This server has other names. Give" in said(NotABioEngine, f"http://{place}")
    with serving(302, {}, location="http://elsewhere.lab") as place:
        assert "it redirects to http://elsewhere.lab" in said(NotABioEngine, f"http://{place}")


def test_an_answer_is_awaited_while_there_is_a_server() -> None:
    def work() -> int:
        time.sleep(0.5)
        return 7

    with serving(200, {"status": "OK"}) as place:
        assert while_alive(work, f"http://{place}", interval=0.02, patience=0.1) == 7
        with pytest.raises(ZeroDivisionError):
            while_alive(lambda: 1 // 0, f"http://{place}")
    with pytest.raises(ConnectionLost, match="Check that it is running"):
        while_alive(threading.Event().wait, f"http://{place}", interval=0.02, patience=0.1)


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (
            "Input 'image' has the shape (7, 5). The model takes 'image': float32, axes bcyx (batch: any, y: 72 + n). "
            'Batches may have any size; give `axes` if yours are different. This works: inputs=[{"model_id": "m", "inputs": '
            "[np.zeros((1, 1, 72, 72), 'float32')]}].",
            "Input 'image' has the shape (7, 5). The model takes 'image': float32, axes bcyx (batch: any, y: 72 + n). "
            "Batches may have any size; give --axes if yours are different.",
        ),
        (
            "Input 'x' is float32, but the model takes uint8: the values would change. Convert it, for example with "
            "image.astype('uint8').",
            "Input 'x' is float32, but the model takes uint8: the values would change.",
        ),
        (
            "It can be run with weight_format 'onnx'; leave it out for the fastest.",
            "It can be run with --weights 'onnx'; leave it out for the fastest.",
        ),
        (
            "A tile of 8 is not possible. Give such a size as `tile`, or leave `tile` out.",
            "A tile of 8 is not possible.",
        ),
        (
            "Input 'x' has the shape (3, 80, 96). Give axes=\"byx\" for planes. Send image.reshape(-1, *image.shape[2:]) with "
            'axes="byx" for all. Convert a colour image to grey first: image[..., :3].mean(-1), with axes="yx".',
            "Input 'x' has the shape (3, 80, 96). Give --axes byx for planes.",
        ),
        (
            "Scale them so that 1 becomes 255: `(image * 255).round().astype('uint8')`. "
            "Round them, with `image.round().astype('uint8')`; or rescale them, with `np.interp(image, (0, 1), (0, 255))`. "
            "Replace them first, for example with "
            "`image = np.where(np.isfinite(image), image, 0)`. Then `image.astype('uint8')` changes nothing.",
            "Scale them so that 1 becomes 255. Round them; or rescale them. Replace them first.",
        ),
        ("Ask for it: `./bioengine models pull some-image.v2`.", "Ask for it: `./bioengine models pull some-image.v2`."),
        (
            str(TokenNeeded()),
            "This server needs a token: ask its admin for one (`./bioengine token create NAME`).",
        ),
        ("Nothing of Python.", "Nothing of Python."),
    ],
)
def test_no_advice_is_python(answer: str, shown: str) -> None:
    assert for_command_line(answer) == shown
