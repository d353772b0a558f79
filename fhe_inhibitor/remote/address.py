"""Where a server is, and what the environment says about the way there: proxies, certificates.

Each is checked before it is used, and what is wrong is named: the address, or the variable.
"""

from __future__ import annotations

import os
import ssl
import urllib.request

import httpx

from fhe_inhibitor.errors import InputError
from fhe_inhibitor.remote.options import RemoteOptions
from fhe_inhibitor.runtime.protocol import LOOPBACK, PREFIX
from fhe_inhibitor.system.files import writing

CA_FILE_VARIABLE = "SSL_CERT_FILE"
_WANTED = "pass one such as https://host:8765"


def parse_address(server: str) -> httpx.URL:
    """Return a server's address. Raises InputError, which never shows a password in it."""
    if "@" in server:
        raise InputError(f"an address holds no '@', and no name and password before it: {_WANTED}")
    try:
        url = httpx.URL(server)
        url.host.encode("idna")
    except (httpx.InvalidURL, UnicodeError) as error:
        raise InputError(f"{server!r} is no address ({error}): {_WANTED}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise InputError(f"{server!r} is no address: {_WANTED}")
    if url.port is not None and not 0 < url.port < 1 << 16:
        raise InputError(f"{server!r} is no address (ports are 1 to 65535): {_WANTED}")
    if url.path.rstrip("/").endswith(PREFIX):
        raise InputError(f"{server!r}: leave out {PREFIX}, which the client adds")
    return url


def find_proxy(url: httpx.URL) -> str | None:
    """Return the proxy that the environment names for an address; None for this machine itself."""
    if url.host in LOOPBACK or urllib.request.proxy_bypass(url.host):
        return None  # a proxy is another machine, and would get the token
    proxies = urllib.request.getproxies()
    proxy = proxies.get(url.scheme) or proxies.get("all")
    return proxy if not proxy or "://" in proxy else f"http://{proxy}"


def without_password(proxy: str) -> str:
    """Return a proxy's address as it may be shown.

    >>> without_password("http://user:secret@proxy:3128")
    'http://proxy:3128'
    """
    scheme, _, rest = proxy.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def make_http(
    url: httpx.URL,
    proxy: str | None,
    options: RemoteOptions,
    headers: dict[str, str],
    timeout: httpx.Timeout,
) -> httpx.AsyncClient:
    """Return a client for one address. Raises InputError for proxies and files that can't be used.

    httpx reads the environment only through this module: it would blame the address for a bad
    NO_PROXY, and ask a proxy for the way to this machine itself.
    """
    secure = url.scheme == "https" or options.ca is not None
    verify = _verified_by(options) if secure else False
    try:
        return httpx.AsyncClient(
            base_url=url,
            headers=headers,
            verify=verify,
            timeout=timeout,
            proxy=proxy,
            trust_env=False,
        )
    except (ValueError, ImportError, httpx.InvalidURL) as error:
        raise InputError(
            f"the proxy {without_password(proxy or '')} that the environment names "
            f"({url.scheme.upper()}_PROXY or ALL_PROXY) can't be used: name one with http:// or "
            "https://, or put the server's host into NO_PROXY"
        ) from error


def _verified_by(options: RemoteOptions) -> ssl.SSLContext | bool:
    """Return what httpx is to believe certificates by."""
    if log := os.environ.get("SSLKEYLOGFILE"):  # Python would open it, and not say which it was
        with writing(f"the file {log}, which SSLKEYLOGFILE names,", "unset the variable"):
            open(log, "a").close()
    if options.ca is not None:
        return _trusting(str(options.ca), "")
    if not options.verify:
        return False
    if file := os.environ.get(CA_FILE_VARIABLE):
        return _trusting(file, f", which {CA_FILE_VARIABLE} names,")
    if folder := os.environ.get("SSL_CERT_DIR"):
        if not os.path.isdir(folder):
            raise InputError(
                f"{folder}, which SSL_CERT_DIR names, is no folder: correct or unset it"
            )
        return ssl.create_default_context(capath=folder)
    return httpx.create_ssl_context(trust_env=False)


def _trusting(file: str, named: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=file)
    except (OSError, ssl.SSLError) as error:
        raise InputError(f"{file}{named} holds no certificates ({error}): pass a PEM file") from (
            error
        )
