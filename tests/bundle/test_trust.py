"""Policies say whose bundles are taken; signed bundles pass, and the commands say who signed."""

import importlib
import json
import shutil

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from offramp.bundle import (
    Trust,
    check_bundle,
    encrypt,
    open_bundle,
    pack,
    policies,
    reading,
    sign_bundle,
    upgrade,
    upgrading,
)
from offramp.bundle.policies import read_trust
from offramp.errors import BundleError, MissingError, TrustError, UsageError
from offramp.runtime import build, load, load_static, load_uncalibrated, verify
from offramp.tests.helpers.bundles import ARCHIVE, edit
from offramp.tests.helpers.command import clear_message, offramp
from offramp.tests.helpers.signing import KeyPair, alter_byte

pytestmark = pytest.mark.filterwarnings("ignore::offramp.errors.UncalibratedWarning")


def test_an_honest_bundle_passes(case, keys):
    with case.use() as net:
        assert net.point is not None
    bundle = open_bundle(case.path, trust=Trust(**case.policy))
    assert (bundle.signed.name, bundle.signed.release, bundle.signed.problems) == ("dense.offramp", 7, ())
    (signer,) = bundle.signed.files["calibrations/board.json"].values()
    assert signer == f"board key {keys.board.key.fingerprint[:16]}"
    assert open_bundle(case.path).signed is None


# Honest uses


def test_two_keys_count_while_one_takes_the_place_of_the_other(case, keys):
    new = KeyPair(case.folder, "new", ec.SECP384R1())
    shutil.copy(ARCHIVE / "calibrations/default.json", case.path / "calibrations/new.json")
    sign_bundle(case.path, new.path, release=7)
    for trusted in (keys.release, new):
        assert open_bundle(case.path, trust=trusted.public).signed.release == 7
    case.policy["release_keys"] += (str(new.public),)
    case.use().close()
    case.policy["revoked"] = {keys.release.key.fingerprint: "it has a successor"}
    signed = open_bundle(case.path, trust=Trust(**case.policy)).signed
    assert {f"release key {new.key.fingerprint[:16]}"} == set(signed.files["manifest.json"].values())


def test_of_two_names_that_counts_which_the_policy_takes(case, keys):
    new = KeyPair(case.folder, "new")
    case.policy["release_keys"] += (str(new.public),)
    renamed = case.path.rename(case.folder / "product")
    sign_bundle(renamed, new.path, release=2)
    assert open_bundle(renamed, trust=Trust(**case.policy, releases={"product": 2})).signed.name == "product"
    assert open_bundle(renamed, trust=Trust(**case.policy, releases={"dense.offramp": 7})).signed.release == 7
    with pytest.raises(TrustError, match="it is release 2 of product, and .* takes releases from 3"):
        open_bundle(renamed, trust=Trust(**case.policy, releases={"product": 3}))


def test_what_came_later_is_signed_by_the_release_key_too(case, keys):
    shutil.copy(ARCHIVE / "calibrations/default.json", case.path / "calibrations/new.json")
    signed = sign_bundle(case.path, keys.release.path)
    assert signed.files == ("manifest.json", "calibrations/new.json") and signed.release is None
    case.policy["board_keys"] = ()
    (case.path / "calibrations/board.json").unlink()
    case.calibration = case.path / "calibrations/new.json"
    case.use().close()
    with pytest.raises(UsageError, match="no calibration and no build that is not signed yet"):
        (case.path / "calibrations/new.json").unlink()
        sign_bundle(case.path, keys.release.path)


def test_a_calibration_of_a_program_is_the_programs_affair(case):
    calibration = reading.read_calibration(ARCHIVE / "calibrations/default.json")
    with load(case.path, trust=Trust(**case.policy), calibration=calibration) as net:
        assert net.point.name == "default"


def test_a_calibration_is_found_signed_by_whatever_name_it_is_reached(case):
    (case.folder / "current").symlink_to(case.path)
    for calibration in (
        case.folder / "current/calibrations/board.json",
        case.path / "../dense.offramp/calibrations/board.json",
    ):
        case.calibration = calibration
        case.use().close()


def test_a_packed_bundle_keeps_its_signatures_and_takes_no_new_ones(case, keys):
    packed = pack(case.path, case.folder / "dense.zip").path
    with load(packed, trust=Trust(**case.policy), calibration=packed / "calibrations/board.json") as net:
        assert net.point is not None
    for options in ((), ("--release", "8")):
        done = offramp("sign", packed, "--key", keys.release.path, *options)
        clear_message(done, 2, "dense.zip is packed", "It is signed before it is packed")
    (case.path / "calibrations/extra.json").write_text(f"{(ARCHIVE / 'calibrations/default.json').read_text()} ")
    extra = pack(case.path, case.folder / "extra.zip").path
    for bundle, words in (
        (extra, "extra.json is refused: it is not signed by a trusted key"),
        (packed, "extra.json is refused: it lies outside the bundle"),
    ):
        with pytest.raises(TrustError, match=words):
            load(bundle, trust=Trust(**case.policy), calibration=extra / "calibrations/extra.json")
    with pytest.raises(TrustError, match="Bring a signed release: offramp sign FOLDER .*, then offramp pack FOLDER"):
        load(packed, trust=keys.stranger.public)


def test_the_last_release_is_remembered_once_it_runs(case):
    weights = case.path / "variants/fp32/weights.bin"
    state = case.folder / "memory/state.json"
    case.policy["state"] = str(state)
    trust = Trust(**case.policy)
    assert verify(open_bundle(case.path, trust=trust), variant="fp32")[0].passed and not state.exists()
    alter_byte(weights, 100)
    with pytest.raises(BundleError, match="is damaged"):
        load(case.path, trust=trust, calibration=case.path / "calibrations/board.json")
    assert not state.exists()
    alter_byte(weights, 100)
    case.use().close()
    assert json.loads(state.read_text()) == {"dense.offramp": 7}
    case.use().close()
    earlier = case.earlier(release=8)
    load(earlier, trust=trust, calibration=earlier / "calibrations/default.json").close()
    assert json.loads(state.read_text()) == {"dense.offramp": 8}
    with pytest.raises(TrustError, match="is release 7 of dense.offramp, and a later one was accepted here"):
        case.use()


def test_a_policy_is_a_file(case, keys):
    policy = keys.folder / "policy.json"
    policy.write_text('{"release_keys": ["release.pub"], "board_keys": ["board.pub"], "state": "state.json"}')
    trust = read_trust(policy)
    assert trust.state == str(keys.folder / "state.json") and trust.release_keys == (keys.release.public.read_text(),)
    assert open_bundle(case.path, trust=policy).signed.release == 7
    for text, words in (
        ('{"release_keys": []}', "policy.json is not of its form"),
        ('{"release_keys": ["release.pub"], "revoke": {}}', "unknown field `revoke`"),
        ('{"release_keys": ["release.pub"], "revoked": {"AB": "short"}}', "is not of its form"),
        ('{"release_keys": ["release.pub"], "release_keys": ["stranger.pub"]}', "a name is there twice"),
        ("release.pub", "is not of its form"),
        ('{"release_keys": ["release.pem"]}', "release.pem is no public key"),
        (keys.release.path.read_text(), "policy.json is no public key"),
    ):
        policy.write_text(text)
        with pytest.raises(TrustError, match=words):
            read_trust(policy)
    policy.write_text('{"release_keys": ["nowhere.pub"]}')
    with pytest.raises(UsageError, match=r"no policy and no public key at .*nowhere.pub"):
        open_bundle(case.path, trust=policy)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Trust(release_keys="release.pub"), "are tuples of the names of PEM files, not 'release.pub'"),
        (lambda: Trust(release_keys=(1,)), "are tuples of the names of PEM files"),
        (lambda: 5, "trust is a Trust, its file, or a public key's file, not 5"),
        (lambda: "nowhere.json", "There is no policy and no public key at nowhere.json"),
    ],
)
def test_what_is_no_policy_is_a_mistake_of_the_program(case, make, words):
    with pytest.raises(UsageError, match=words):
        load(case.path, trust=make())


# The machine's policy


@pytest.fixture
def machine(case, keys, monkeypatch):
    """A policy of this machine."""
    folder = case.folder / "etc"
    folder.mkdir(mode=0o755)
    for pair in (keys.release, keys.board, keys.stranger):
        shutil.copy(pair.public, folder)
    path = folder / "trust.json"
    path.write_text('{"release_keys": ["release.pub"], "board_keys": ["board.pub"]}')
    path.chmod(0o644)
    monkeypatch.setattr(reading, "POLICY", path)
    return path


def test_the_policy_of_the_machine_is_obeyed_everywhere(case, keys, machine):
    assert offramp("verify", case.path, "--variant", "fp32").returncode == 0
    shutil.rmtree(case.path / "signatures")
    words = r"refused, as .*trust.json demands a release that a trusted key signed: it is not signed"
    for use in (load, load_static, load_uncalibrated, verify, build, check_bundle):
        with pytest.raises(TrustError, match=words):
            use(case.path, **({"device": "cpu"} if use is build else {}))
    sign_bundle(case.path, keys.stranger.path, release=9)
    with pytest.raises(TrustError, match="which is not trusted"):  # a program cannot ask for less
        load(case.path, trust=keys.stranger.public)
    sign_bundle(case.path, keys.release.path, release=9)
    assert open_bundle(case.path, trust=keys.stranger.public).signed.release == 9


def test_what_is_about_to_be_signed_is_made_whatever_the_machine_demands(case, keys, machine, monkeypatch):
    def kill(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(upgrading, "write_manifest", kill)
        with pytest.raises(KeyboardInterrupt):
            upgrade(case.path)
    done = offramp("upgrade", case.path)
    assert done.stdout.splitlines() == [
        "manifest.json: rewritten, it had schema 2",
        "signatures: of the files as they were. Sign again: offramp sign",
    ]
    secret = encrypt(sign_and_open(case.path, keys), case.folder / "secret.offramp", lambda path: path.read_bytes())
    with pytest.raises(TrustError, match="secret.offramp is refused"):
        load(secret.path)
    assert sign_and_open(secret.path, keys).signed.release == 9


def sign_and_open(path, keys):
    sign_bundle(path, keys.release.path, release=9)
    return open_bundle(path)


def test_both_policies_must_take_a_file(case, keys, machine):
    assert open_bundle(case.path, trust=keys.release.public).signed.files.keys() >= {"calibrations/board.json"}
    with pytest.raises(TrustError, match="board.json is refused: it is not signed"):
        load(case.path, trust=keys.release.public, calibration=case.path / "calibrations/board.json")


def test_a_policy_that_others_may_write_is_not_relied_on(case, machine):
    for path in (machine, machine.parent, machine.parent / "release.pub"):
        path.chmod(path.stat().st_mode | 0o020)
        with pytest.raises(TrustError, match="and another user may write it: chown root"):
            open_bundle(case.path)
        path.chmod(path.stat().st_mode & ~0o022)
    open_bundle(case.path)
    machine.rename(machine.with_name("elsewhere.json"))
    machine.symlink_to("nowhere.json")  # it is there, and says nothing
    with pytest.raises(UsageError, match="no policy"):
        open_bundle(case.path)


def test_bundles_are_made_and_signed_whatever_the_policy_says(case, keys, machine):
    edit(case.path / "manifest.json", lambda m: m.update(network="Other"))
    assert sign_bundle(case.path, keys.release.path, release=8).release == 8
    assert open_bundle(case.path).signed.release == 8


# The command line, and model-signing's


def test_the_commands_say_who_signed(case, keys, machine):
    machine.unlink()
    assert "signed" not in offramp("inspect", ARCHIVE).stdout
    text = offramp("inspect", case.path).stdout
    assert "signed, as it says itself (--trust KEYS checks that):\n  dense.offramp, 2 files, key" in text
    assert "\n  dense.offramp release 7, 20 files, key" in text
    policy = json.dumps({field: [str(key) for key in case.policy[field]] for field in ("release_keys", "board_keys")})
    machine.write_text(policy)
    machine = shutil.copy(machine, case.folder / "policy.json")
    release, board = (pair.key.fingerprint[:16] for pair in (keys.release, keys.board))
    line = f"signed: dense.offramp release 7, release key {release}\n  board key {board}: calibrations/board.json"
    for command in (("inspect",), ("verify", "--variant", "fp32")):
        assert line in offramp(*command, case.path, "--trust", machine).stdout
    document = json.loads(offramp("inspect", case.path, "--trust", machine, "--json").stdout)
    assert document["signed"]["release"] == 7
    done = offramp("inspect", case.path, "--trust", keys.stranger.public)
    clear_message(done, 5, "demands a release that a trusted key signed", "which is not trusted")
    done = offramp("sign", case.path, "--key", keys.stranger.path, "--release", "3")
    assert (
        done.returncode == 0
        and f"21 files of dense.offramp, release 3, key {keys.stranger.key.fingerprint}" in done.stdout
    )


def test_keys_that_cannot_sign_are_refused(case, keys):
    weights = case.path / "variants/fp32/weights.bin"
    encrypted, rsa, missing = (case.folder / name for name in ("encrypted.pem", "rsa.pem", "missing.pem"))
    encrypted.write_bytes(keys.release.encrypted())
    rsa.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    weak = KeyPair(case.folder, "weak", ec.SECP256K1())
    for key, words in (
        (encrypted, "is encrypted. Sign with a copy that is not: openssl pkey"),
        (rsa, "holds no private key"),
        (keys.release.public, "holds no private key"),
        (weak.path, "is not on the curve P-256, P-384 or P-521"),
        (missing, "There is no key at"),
    ):
        clear_message(offramp("sign", case.path, "--key", key), 2, words)
    with pytest.raises(UsageError, match="is a whole number from 0 on, not -1"):
        sign_bundle(case.path, keys.release.path, release=-1)
    alter_byte(weights, 100)
    with pytest.raises(BundleError, match="is damaged"):
        sign_bundle(case.path, keys.release.path, release=8)
    alter_byte(weights, 100)
    (case.path / "variants/link").symlink_to("/etc")
    with pytest.raises(UsageError, match="is a link. Sign a copy"):
        sign_bundle(case.path, keys.release.path, release=8)


def test_what_was_verified_is_what_is_used(case, monkeypatch):
    check = policies.check_signatures

    def swap_after(*arguments, **options):
        signed = check(*arguments, **options)
        edit(case.path / "manifest.json", lambda manifest: manifest.update(network="Swapped"))
        return signed

    monkeypatch.setattr(policies, "check_signatures", swap_after)
    assert open_bundle(case.path, trust=Trust(**case.policy)).manifest.network != "Swapped"
    assert open_bundle(case.path).manifest.network == "Swapped"


def test_a_check_imports_elliptic_curves_alone(case, keys, python):
    code = "import sys; from offramp.bundle import open_bundle; open_bundle(sys.argv[1], trust=sys.argv[2] or None); "
    code += "print(*(name for name in sys.modules if name.startswith(('cryptography', 'offramp.bundle.'))))"
    without, checked = (set(python(code, case.path, key).split()) for key in ("", keys.release.public))
    assert not {"cryptography", "offramp.bundle.policies", "offramp.bundle.signatures"} & without
    assert "cryptography.hazmat.primitives.asymmetric.ec" in checked
    assert not {"cryptography.x509", "cryptography.hazmat.primitives.serialization", "offramp.bundle.signing"} & checked


def test_without_cryptography_nothing_is_taken(case, monkeypatch):
    def find_nothing(name):
        raise ModuleNotFoundError("No module named 'cryptography'", name="cryptography")

    monkeypatch.setattr(importlib, "import_module", find_nothing)
    with pytest.raises(MissingError, match=r"pip install 'offramp\[trust\]'") as missing:
        open_bundle(case.path, trust=Trust(**case.policy))
    assert missing.value.extra == "trust"


def test_model_signing_takes_what_is_signed_here(case, keys):
    weights = case.path / "variants/fp32/weights.bin"
    verifying = pytest.importorskip("model_signing.verifying")
    check = verifying.Config().use_elliptic_key_verifier(public_key=keys.board.public).set_ignore_unsigned_files(True)
    check.verify(case.path, case.board_sig)
    sign_bundle(case.path, keys.release.path, release=8)
    check = verifying.Config().use_elliptic_key_verifier(public_key=keys.release.public)
    check.verify(case.path, case.release_sig)
    alter_byte(weights, 100)
    with pytest.raises(ValueError, match=r"Hash mismatch for .*weights\.bin"):
        check.verify(case.path, case.release_sig)


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_what_model_signing_signs_is_taken_here(case, curve):
    signing = pytest.importorskip("model_signing.signing")
    pair = KeyPair(case.folder, "theirs", curve)
    shutil.rmtree(case.path / "signatures")
    (case.path / "signatures").mkdir()
    signing.Config().use_elliptic_key_signer(private_key=pair.path).sign(case.path, case.path / "signatures/theirs.sig")
    case.policy["release_keys"] = (str(pair.public),)
    case.use().close()
    assert open_bundle(case.path, trust=pair.public).signed.release == 0
    edit(case.path / "calibrations/default.json", lambda c: c.update(notes=[]))
    with pytest.raises(TrustError, match="default.json is refused: it was altered"):
        case.use()
