"""A certificate authority of a test's own and what it signs, made with the openssl program."""

import dataclasses
import pathlib
import ssl
import subprocess


@dataclasses.dataclass(frozen=True)
class Certificates:
    authority: pathlib.Path  # what a client is to trust
    certificate: pathlib.Path  # of 127.0.0.1
    key: pathlib.Path
    encrypted_key: pathlib.Path
    other_key: pathlib.Path  # of no certificate

    PASSWORD = "open sesame"

    def trusting(self):
        return ssl.create_default_context(cafile=self.authority)


def openssl(folder, *arguments):
    subprocess.run(["openssl", *map(str, arguments)], cwd=folder, check=True, capture_output=True)


def new_key(folder, name):
    openssl(folder, "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", name)


def make(folder):
    for name in ("ca.key", "server.key", "other.key"):
        new_key(folder, name)
    openssl(folder, "req", "-x509", "-new", "-key", "ca.key", "-subj", "/CN=Test authority", "-days", "2",
            "-addext", "keyUsage=critical,keyCertSign", "-out", "ca.pem")
    openssl(folder, "req", "-new", "-key", "server.key", "-subj", "/CN=Test server", "-out", "server.csr")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl(folder, "x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
            "-CAcreateserial", "-days", "2", "-extfile", "names", "-out", "server.pem")
    openssl(folder, "pkey", "-in", "server.key", "-aes128", "-passout",
            "pass:" + Certificates.PASSWORD, "-out", "locked.key")
    return Certificates(folder / "ca.pem", folder / "server.pem", folder / "server.key",
                        folder / "locked.key", folder / "other.key")
