"""The programs of a node: their command lines and their configuration files.

All paths below /run/stoker are the cluster's folder as it is seen inside (see `node`). Addresses
and ports are the same in every cluster, since each has a network of its own:

    10.88.0.1       the node          10.96.0.0/16    Services (10.96.0.1 API, 10.96.0.10 DNS)
    10.244.0.0/24   the node's pods   10.244.0.0/16   pods
"""

import json
from pathlib import Path

from .layout import PAUSE_IMAGE, Layout
from .pki import NODE_ADDRESS, SERVICE_ACCOUNT_ISSUER

PKI = "/run/stoker/pki"
ETC = "/run/stoker/etc"
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
PODS = "10.244.0.0/16"
NODE_PODS = "10.244.0.0/24"
SERVICES = "10.96.0.0/16"
NODE = "node1"

# program -> arguments, in the order of starting
COMMANDS = {
    "etcd": [
        "--data-dir=/var/lib/etcd",
        "--listen-client-urls=http://127.0.0.1:2379",
        "--advertise-client-urls=http://127.0.0.1:2379",
        "--listen-peer-urls=http://127.0.0.1:2380",
        "--log-level=warn",
        # The data goes with the cluster, so nothing is gained by waiting for the disk.
        "--unsafe-no-fsync",
    ],
    "containerd": [f"--config={ETC}/containerd.toml"],
    "kube-apiserver": [
        "--etcd-servers=http://127.0.0.1:2379",
        "--secure-port=6443",
        f"--advertise-address={NODE_ADDRESS}",
        f"--service-cluster-ip-range={SERVICES}",
        f"--client-ca-file={PKI}/ca.crt",
        f"--tls-cert-file={PKI}/apiserver.crt",
        f"--tls-private-key-file={PKI}/apiserver.key",
        f"--service-account-issuer={SERVICE_ACCOUNT_ISSUER}",
        f"--service-account-key-file={PKI}/service-account.pub",
        f"--service-account-signing-key-file={PKI}/service-account.key",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        # Without this, logs and exec look the node's name up.
        "--kubelet-preferred-address-types=InternalIP",
        f"--kubelet-certificate-authority={PKI}/ca.crt",
        f"--kubelet-client-certificate={PKI}/apiserver-kubelet-client.crt",
        f"--kubelet-client-key={PKI}/apiserver-kubelet-client.key",
        # For aggregated APIs, such as metrics.
        f"--requestheader-client-ca-file={PKI}/front-proxy-ca.crt",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={PKI}/front-proxy-client.crt",
        f"--proxy-client-key-file={PKI}/front-proxy-client.key",
    ],
    "kube-controller-manager": [
        f"--kubeconfig={ETC}/controller-manager.kubeconfig",
        f"--service-account-private-key-file={PKI}/service-account.key",
        f"--root-ca-file={PKI}/ca.crt",
        f"--cluster-signing-cert-file={PKI}/ca.crt",
        f"--cluster-signing-key-file={PKI}/ca.key",
        f"--requestheader-client-ca-file={PKI}/front-proxy-ca.crt",
        "--use-service-account-credentials",
        "--leader-elect=false",
        "--allocate-node-cidrs",
        f"--cluster-cidr={PODS}",
        f"--service-cluster-ip-range={SERVICES}",
        "--bind-address=127.0.0.1",
        # With leader election it would end, and forget how long it heard nothing, when the API server is away. Without, it
        # would take the only node for lost once the API server comes back after more than 50 s, and all pods for not ready.
        "--node-monitor-grace-period=10m",
        # Its own limit on requests would make the start four seconds longer.
        "--kube-api-qps=200",
        "--kube-api-burst=400",
        # The default is below /usr and would be made there.
        "--flex-volume-plugin-dir=/var/lib/kubelet/volume-plugins",
    ],
    "kube-scheduler": [
        f"--kubeconfig={ETC}/scheduler.kubeconfig",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
    ],
    "kubelet": [
        f"--config={ETC}/kubelet.json",
        f"--kubeconfig={ETC}/kubelet.kubeconfig",
        f"--hostname-override={NODE}",
        f"--node-ip={NODE_ADDRESS}",
    ],
    "kube-proxy": [f"--config={ETC}/proxy.json"],
}
# These two come first; the rest waits until the API answers.
BEFORE_API = ("etcd", "containerd", "kube-apiserver")


def write_configuration(layout: Layout, cni_folder: Path) -> None:
    """Writes the configuration files that the command lines above name."""

    def write(name: str, value: dict) -> None:
        (layout.etc / name).write_text(json.dumps(value, indent=1) + "\n")

    (layout.etc / "containerd.toml").write_text(_containerd(cni_folder))
    write("kubelet.json", _kubelet(layout))
    write("proxy.json", _PROXY)
    # No server: a cluster's only DNS is its own, and that one asks nobody.
    (layout.etc / "resolv.conf").write_text("# no resolver outside of the cluster\n")
    (layout.etc / "cni").mkdir()
    write("cni/10-stoker.conflist", _CNI)


def _kubelet(layout: Layout) -> dict:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "x509": {"clientCAFile": f"{PKI}/ca.crt"},
            "webhook": {"enabled": True},
        },
        "authorization": {"mode": "Webhook"},
        "address": NODE_ADDRESS,
        "tlsCertFile": f"{PKI}/kubelet.crt",
        "tlsPrivateKeyFile": f"{PKI}/kubelet.key",
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{layout.cgroup}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "maxPods": 110,
        "clusterDomain": "cluster.local",
        "clusterDNS": ["10.96.0.10"],
        "resolvConf": f"{ETC}/resolv.conf",
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        # Nothing can be pulled again, so no image is ever removed for room.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "shutdownGracePeriod": "0s",
    }


_PROXY = {
    "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
    "kind": "KubeProxyConfiguration",
    "mode": "iptables",
    "clientConnection": {"kubeconfig": f"{ETC}/proxy.kubeconfig"},
    "clusterCIDR": PODS,
    "hostnameOverride": NODE,
    "metricsBindAddress": "127.0.0.1:10249",
    # etcd listens on 127.0.0.1 without a password: keep that address out of the pods' reach.
    "iptables": {"localhostNodePorts": False, "minSyncPeriod": "0s"},
    # Zero leaves the machine's connection tracking as it is.
    "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
}

# Each pod hangs on a link of its own and all its traffic is routed by the node, so that kube-proxy
# sees it without bridge-nf-call-iptables, which is a setting of the machine.
_CNI = {
    "cniVersion": "0.4.0",
    "name": "stoker",
    "plugins": [
        {
            "type": "ptp",
            "ipMasq": False,
            "ipam": {"type": "host-local", "ranges": [[{"subnet": NODE_PODS}]], "routes": [{"dst": "0.0.0.0/0"}]},
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}


def _containerd(cni_folder: Path) -> str:
    return f"""version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  # Without the right to lower it, runc dies with "can't get final child's PID".
  restrict_oom_score_adj = true
  # A profile would be loaded into the machine's kernel and stay.
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{cni_folder}"
    conf_dir = "{ETC}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"""
