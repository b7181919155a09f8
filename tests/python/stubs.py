"""What protoc makes of our contract and of gRPC's own services: made once a session, thrown away after it."""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
GRPC_PROTO = Path("/usr/share/grpc-proto/grpc")  # Debian's package grpc-proto

# Folder on the include path, file in it. gRPC's own lie flat, because Python's `grpc` is a package already.
PROTOS = [
    (ROOT / "proto", "lossd/v1/loss.proto"),
    (GRPC_PROTO / "health/v1", "health.proto"),
    (GRPC_PROTO / "reflection/v1alpha", "reflection.proto"),
]


def generate():
    """Makes the stubs importable. Returns their folder, which cleans up after itself."""
    folder = tempfile.TemporaryDirectory(prefix="lossd-stubs-")
    for include, proto in PROTOS:
        subprocess.run(["protoc", f"-I{include}", f"--python_out={folder.name}", f"--grpc_out={folder.name}",
                        "--plugin=protoc-gen-grpc=/usr/bin/grpc_python_plugin", proto], check=True)
    sys.path.insert(0, folder.name)
    return folder
