"""Keys, and signatures as somebody makes them who does not keep to the rules."""

import json
import shutil
from base64 import b64decode
from binascii import b2a_base64

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from offramp.bundle import Trust, check_bundle, sign_bundle
from offramp.bundle.signatures import join_signed, parse_key
from offramp.bundle.signing import _encode_signature, _encode_statement
from offramp.files import hash_file
from offramp.runtime import load
from offramp.tests.helpers.bundles import edit

STRANGE_KEYS = {
    "RSA": """
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAwYvf6tNqInbJfq+Dcz0d
srtaZQWwtIAbmNJPb24ZPzUHKU0R8L4KGDx5lg2SzaolzPfZ8stKov/qXJxcy+ue
aUrLxT3m+dm++997380t5sjN/VW81xRrCvBZV0VWywPQkRR0g3ECCckrmeEAxwsx
P8NhNmBPeSNCa5toGNHJ3kQflYvCHE8xn/hqTcNLY1HK1SNvv3Yfxq/NrPSX40lb
/ZRbz9xfW8bRvFyHwLkUeQa1TxW9Q2SetQJqSZHOA9EQsF3yCzvlXG4HNaBC00Nc
0nmxNlp0s1vTPunB8aLdPPllqewF2bfMUPbFCj/+gp+M1gDO16JZgtGqQlLNkZEI
PQIDAQAB""",
    "secp256k1": """
MFYwEAYHKoZIzj0CAQYFK4EEAAoDQgAEJN7fmLbXb00zyB/5pM9wIIOdsNqtij+A
dq+SdLt9FAYXiDdW+tok6pG8U4lqv6I2is9ws/rw8kdLdnnJG4WbIw==""",
    "secp224r1": """
ME4wEAYHKoZIzj0CAQYFK4EEACEDOgAEsHrbQSmPvIcZ36GItjp4w7YzWcDdYon4
aW8jjUnx+wmFzYzso3j7bs0RPjX6gWfVXpLvti2JVyc=""",
    "Ed25519": """
MCowBQYDK2VwAyEAaPoZroFQegAiETtJisgwlxYa/D6DG+fQY+E/XBeANwY=""",
    "no key": """
aGVsbG8gd29ybGQ=""",
}
"""The inner lines of public keys that are not taken."""


class KeyPair:
    """A private key in a folder as `<name>.pem`, and its public half as `<name>.pub`."""

    def __init__(self, folder, name, curve=None):
        self.private = ec.generate_private_key(curve or ec.SECP256R1())
        self.path, self.public = folder / f"{name}.pem", folder / f"{name}.pub"
        form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        self.path.write_bytes(self.private.private_bytes(serialization.Encoding.PEM, *form))
        public = serialization.PublicFormat.SubjectPublicKeyInfo
        self.public.write_bytes(self.private.public_key().public_bytes(serialization.Encoding.PEM, public))
        self.key = parse_key(self.public.read_text())

    def encrypted(self):
        """Return the private key as a PEM file that a password protects."""
        form = serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
        return self.private.private_bytes(serialization.Encoding.PEM, *form)

    def sign(self, payload):
        """Return a signature's file for any payload."""
        return _encode_signature(payload, self.private, self.key)

    def sign_files(self, files, name="dense.offramp", release=None):
        return self.sign(_encode_statement(name, files, release))


def sign_as(pair, payload, kind):
    """Return the signature of a payload of another kind than model-signing's, in base64."""
    joined = join_signed(payload).replace(
        b"DSSEv1 28 application/vnd.in-toto+json", f"DSSEv1 {len(kind)} {kind}".encode()
    )
    return b2a_base64(pair.private.sign(joined, ec.ECDSA(hashes.SHA256())), newline=False).decode()


def edit_signature(path, change):
    """Change the document in a signature's file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def alter_byte(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


class Case:
    """A copy of the signed bundle, the policy that demands its signatures, and what somebody hostile has at hand."""

    def __init__(self, signed, keys, folder):
        self.path = shutil.copytree(signed, folder / "dense.offramp", symlinks=True)
        self.signed, self.keys, self.folder = signed, keys, folder
        self.policy = {"release_keys": (str(keys.release.public),), "board_keys": (str(keys.board.public),)}
        self.calibration = "board"
        self.release_sig, self.board_sig = sorted(
            (self.path / "signatures").iterdir(), key=lambda path: path.name, reverse=True
        )

    def use(self):
        """Use everything of the bundle."""
        bundle = check_bundle(self.path, trust=Trust(**self.policy))
        for path in bundle.calibrations():
            bundle.read_calibration(path)
        calibration = self.calibration
        if calibration == "board":
            calibration = self.path / "calibrations/board.json"
        return load(self.path, trust=Trust(**self.policy), calibration=calibration)

    def digests(self):
        return {
            path.relative_to(self.path).as_posix(): hash_file(path)
            for path in sorted(self.path.rglob("*"))
            if path.is_file() and path.suffix != ".sig"
        }

    def payload(self, path=None):
        return b64decode(json.loads((path or self.release_sig).read_text())["dsseEnvelope"]["payload"])

    def earlier(self, release=5):
        """Another bundle of the same name and key, with another manifest."""
        path = shutil.copytree(self.signed, self.folder / "earlier/dense.offramp")
        shutil.rmtree(path / "signatures")
        edit(path / "manifest.json", lambda manifest: manifest.update(network="Earlier"))
        edit(path / "calibrations/board.json", lambda calibration: calibration.update(notes=["withdrawn"]))
        sign_bundle(path, self.keys.release.path, release=release)
        return path
