"""Keys and certificates of one cluster, made anew for each with openssl, and the kubeconfig files.

Elliptic-curve keys, since making them takes no time. All are valid for a year."""

import base64
import json
import subprocess
from pathlib import Path

from .layout import ClusterError

SERVICE_ACCOUNT_ISSUER = "https://kubernetes.default.svc.cluster.local"
NODE_ADDRESS = "10.88.0.1"
SERVER = f"https://{NODE_ADDRESS}:6443"

# file name -> (signing CA, subject, subject alternative names or "")
CERTIFICATES = {
    "apiserver": (
        "ca",
        "/CN=kube-apiserver",
        f"IP:127.0.0.1,IP:{NODE_ADDRESS},IP:10.96.0.1,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,"
        "DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local",
    ),
    "apiserver-kubelet-client": ("ca", "/O=system:masters/CN=kube-apiserver-kubelet-client", ""),
    "admin": ("ca", "/O=system:masters/CN=admin", ""),
    "controller-manager": ("ca", "/CN=system:kube-controller-manager", ""),
    "scheduler": ("ca", "/CN=system:kube-scheduler", ""),
    "kubelet": ("ca", "/O=system:nodes/CN=system:node:node1", f"DNS:node1,IP:{NODE_ADDRESS}"),
    "proxy": ("ca", "/CN=system:kube-proxy", ""),
    "front-proxy-client": ("front-proxy-ca", "/CN=front-proxy-client", ""),
}
KUBECONFIGS = ("admin", "controller-manager", "scheduler", "kubelet", "proxy")


def create(folder: Path) -> None:
    """Fills `folder` with the cluster's keys and certificates."""
    folder.mkdir(mode=0o700)
    for ca in ("ca", "front-proxy-ca"):
        _openssl(folder, "req", "-x509", *_NEW_KEY, "-keyout", f"{ca}.key", "-out", f"{ca}.crt", "-days", "366", "-subj", f"/CN=stoker-{ca}")
    for name, (ca, subject, names) in CERTIFICATES.items():
        (folder / f"{name}.ext").write_text(
            "keyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\n"
            + (f"subjectAltName={names}\n" if names else "")
        )
        _openssl(folder, "req", *_NEW_KEY, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", subject)
        _openssl(
            folder, "x509", "-req", "-in", f"{name}.csr", "-CA", f"{ca}.crt", "-CAkey", f"{ca}.key", "-CAcreateserial",
            "-days", "365", "-extfile", f"{name}.ext", "-out", f"{name}.crt",
        )  # fmt: skip
        (folder / f"{name}.csr").unlink()
        (folder / f"{name}.ext").unlink()
    _openssl(folder, "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "service-account.key")
    _openssl(folder, "ec", "-in", "service-account.key", "-pubout", "-out", "service-account.pub")


def kubeconfig(folder: Path, name: str, cluster: str) -> str:
    """A kubeconfig that holds its keys, so that it works under every path. (JSON is YAML too.)"""

    def data(file: str) -> str:
        return base64.b64encode((folder / file).read_bytes()).decode()

    context = f"stoker-{cluster}"
    value = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": context, "cluster": {"server": SERVER, "certificate-authority-data": data("ca.crt")}}],
        "users": [
            {"name": name, "user": {"client-certificate-data": data(f"{name}.crt"), "client-key-data": data(f"{name}.key")}}
        ],
        "contexts": [{"name": context, "context": {"cluster": context, "user": name}}],
        "current-context": context,
    }
    return json.dumps(value, indent=1) + "\n"


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def _openssl(folder: Path, *arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"openssl {arguments[0]} failed in {folder}: {done.stderr.strip()}")
