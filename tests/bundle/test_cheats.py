"""Signed bundles: more than forty ways to cheat are refused, and signatures that were altered never say something else."""

import json
import os
import shutil
from base64 import b64decode, b64encode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offramp.bundle import sign_bundle
from offramp.bundle.signatures import BEGIN, END, read_signature
from offramp.errors import BundleError, TrustError
from offramp.files import hash_file
from offramp.tests.helpers.bundles import ARCHIVE, edit
from offramp.tests.helpers.signing import STRANGE_KEYS, alter_byte, edit_signature, sign_as

pytestmark = pytest.mark.filterwarnings("ignore::offramp.errors.UncalibratedWarning")


# The files


def swap_stages(case):
    first, second = (case.path / f"variants/fp32/stage{k}.onnx" for k in (0, 1))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def alter_weights(case):
    alter_byte(case.path / "variants/fp32/weights.bin", 100)


def alter_golden_samples(case):
    alter_byte(case.path / "variants/fp32/golden.npz", -1)


def alter_weights_and_manifest(case):
    alter_weights(case)
    facts = {"sha256": hash_file(case.path / "variants/fp32/weights.bin")}
    edit(case.path / "manifest.json", lambda m: m["variants"][0]["files"]["weights.bin"].update(facts))


def append_a_space_to_the_manifest(case):
    path = case.path / "manifest.json"
    path.write_bytes(path.read_bytes() + b" ")


def rename_a_class(case):
    edit(case.path / "manifest.json", lambda m: m.update(network="Other"))


def take_an_unsigned_manifest(case):
    shutil.copy(case.earlier() / "manifest.json", case.path)


def alter_a_calibration(case):
    edit(case.path / "calibrations/default.json", lambda c: c["points"]["default"].update(thresholds=[0.0, 0.0]))


def alter_a_calibration_of_the_board(case):
    edit(case.path / "calibrations/board.json", lambda c: c.update(notes=[]))


def add_a_calibration(case):
    (case.path / "calibrations/new.json").write_bytes((ARCHIVE / "calibrations/default.json").read_bytes())


def swap_calibrations(case):
    shutil.copy(case.path / "calibrations/board.json", case.path / "calibrations/default.json")


def bring_back_a_withdrawn_calibration(case):
    earlier = case.earlier(release=6)
    shutil.copy(earlier / "calibrations/board.json", case.path / "calibrations/withdrawn.json")
    shutil.copy(next((earlier / "signatures").iterdir()), case.path / "signatures/earlier.sig")


def take_a_calibration_from_outside(case):
    case.calibration = shutil.copy(case.path / "calibrations/board.json", case.folder / "outside.json")


def climb_out_of_the_calibrations(case):
    shutil.copy(case.path / "calibrations/board.json", case.folder / "outside.json")
    case.calibration = case.path / "calibrations/../../outside.json"


def link_a_calibration(case):
    outside = case.folder / "outside.json"
    shutil.copy(case.path / "calibrations/board.json", outside)
    (case.path / "calibrations/linked.json").symlink_to(outside)


def link_the_manifest(case):
    (case.path / "manifest.json").unlink()
    (case.path / "manifest.json").symlink_to(case.earlier() / "manifest.json")


# Whose signature it is


def strip_the_signatures(case):
    shutil.rmtree(case.path / "signatures")


def empty_the_signatures(case):
    for path in (case.path / "signatures").iterdir():
        path.write_bytes(b"")


def keep_the_signature_of_the_board_alone(case):
    case.release_sig.unlink()


def sign_with_another_key(case):
    strip_the_signatures(case)
    sign_bundle(case.path, case.keys.stranger.path, release=9)


def claim_another_key(case):
    sign_with_another_key(case)
    (path,) = (case.path / "signatures").iterdir()
    fingerprint = case.keys.release.key.fingerprint
    edit_signature(path, lambda file: file["verificationMaterial"]["publicKey"].update(hint=fingerprint))


def release_with_the_key_of_a_board(case):
    strip_the_signatures(case)
    sign_bundle(case.path, case.keys.board.path, release=9)


def alter_the_model_with_the_key_of_a_board(case):
    alter_weights_and_manifest(case)
    sign_bundle(case.path, case.keys.board.path, release=9)


def sign_a_calibration_with_another_key(case):
    add_a_calibration(case)
    sign_bundle(case.path, case.keys.stranger.path)


def revoke_the_release_key(case):
    case.policy["revoked"] = {case.keys.release.key.fingerprint: "it was stolen"}


def revoke_the_key_of_the_board(case):
    case.policy["revoked"] = {case.keys.board.key.fingerprint: "the board was lost"}


def trust_no_board(case):
    case.policy["board_keys"] = ()


def trust_a_strange_key(kind):
    def cheat(case):
        case.policy["release_keys"] = (f"{BEGIN}{STRANGE_KEYS[kind]}\n{END}\n",)

    cheat.__name__ = f"trust_{kind.replace(' ', '_')}"
    return cheat


# Which bundle it is of


def play_an_old_release_back(case):
    case.policy["state"] = str(case.folder / "state.json")
    case.use().close()
    case.path = case.earlier()
    case.calibration = None


def offer_too_old_a_release(case):
    case.policy["releases"] = {"dense.offramp": 8}


def swap_in_another_bundle(case):
    other = case.path.rename(case.folder / "other.offramp")
    shutil.rmtree(other / "signatures")
    sign_bundle(other, case.keys.release.path, release=9)
    case.path = other.rename(case.folder / "dense.offramp")
    case.policy["releases"] = {"dense.offramp": 1}


def swap_the_signatures_of_two_bundles(case):
    shutil.copytree(case.earlier() / "signatures", case.path / "signatures", dirs_exist_ok=True)


def take_a_board_signature_of_another_manifest(case):
    earlier = case.earlier()
    edit(earlier / "calibrations/board.json", lambda c: c.update(notes=["another"]))
    sign_bundle(earlier, case.keys.board.path)
    shutil.copy(earlier / "calibrations/board.json", case.path / "calibrations")
    shutil.copy(next((earlier / "signatures").glob("later-*")), case.path / "signatures")


def sign_the_model_alone(case):
    """A signature that names all files but the manifest."""
    files = case.digests()
    del files["manifest.json"]
    case.release_sig.write_bytes(case.keys.release.sign_files(files, release=7))


# The form of the signature


def altering(change):
    def cheat(case):
        edit_signature(case.release_sig, lambda file: change(file, case))

    cheat.__name__ = change.__name__
    return cheat


@altering
def empty_the_list_of_signatures(file, case):
    file["dsseEnvelope"]["signatures"] = []


@altering
def put_a_bad_signature_before_the_good_one(file, case):
    good = file["dsseEnvelope"]["signatures"][0]
    file["dsseEnvelope"]["signatures"] = [good | {"sig": good["sig"][::-1]}, good]


@altering
def put_a_bad_signature_behind_the_good_one(file, case):
    file["dsseEnvelope"]["signatures"] *= 2


@altering
def alter_the_payload_type(file, case):
    file["dsseEnvelope"]["payloadType"] = "application/json"


@altering
def sign_another_payload_type(file, case):
    signature = sign_as(case.keys.release, case.payload(), "text/plain")
    file["dsseEnvelope"]["signatures"][0]["sig"] = signature


@altering
def alter_the_media_type(file, case):
    file["mediaType"] = "application/vnd.dev.sigstore.bundle.v0.1+json"


@altering
def raise_the_number(file, case):
    payload = case.payload().replace(b'"release": 7', b'"release": 8')
    file["dsseEnvelope"]["payload"] = b64encode(payload).decode()


@altering
def rename_a_file(file, case):
    payload = case.payload().replace(b"calibrations/default", b"calibrations/another")
    file["dsseEnvelope"]["payload"] = b64encode(payload).decode()


@altering
def write_base64_otherwise(file, case):
    file["dsseEnvelope"]["payload"] = "\n" + file["dsseEnvelope"]["payload"]


@altering
def cut_the_signature(file, case):
    file["dsseEnvelope"]["signatures"][0]["sig"] = file["dsseEnvelope"]["signatures"][0]["sig"][:-4]


@altering
def sign_with_zeros(file, case):
    file["dsseEnvelope"]["signatures"][0]["sig"] = b64encode(bytes.fromhex("3006020100020100")).decode()


@altering
def add_a_field(file, case):
    file["dsseEnvelope"]["trusted"] = True


@altering
def give_a_certificate_for_a_key(file, case):
    file["verificationMaterial"] = {"certificate": {"rawBytes": "AAAA"}, "tlogEntries": []}


@altering
def leave_the_key_out(file, case):
    file["verificationMaterial"] = {"tlogEntries": []}


def write_a_name_twice(case):
    text = case.release_sig.read_text()
    case.release_sig.write_text(text.replace('"payload":', '"payload": "e30=", "payload":'))


def write_a_name_twice_in_the_payload(case):
    payload = case.payload().replace(b'"resources":', b'"resources": [], "resources":')
    case.release_sig.write_bytes(case.keys.release.sign(payload))


def name_a_file_twice(case):
    payload = json.loads(case.payload())
    payload["predicate"]["resources"] += payload["predicate"]["resources"][:1]
    case.release_sig.write_bytes(case.keys.release.sign(json.dumps(payload).encode()))


def sign_another_statement(case):
    payload = case.payload().replace(b"https://model_signing/signature/v1.0", b"https://slsa.dev/provenance/v1")
    case.release_sig.write_bytes(case.keys.release.sign(payload))


def take_another_hash(case):
    payload = case.payload().replace(b'"algorithm": "sha256"', b'"algorithm": "blake2"')
    case.release_sig.write_bytes(case.keys.release.sign(payload))


def give_a_number_below_zero(case):
    payload = case.payload().replace(b'"release": 7', b'"release": -7')
    case.release_sig.write_bytes(case.keys.release.sign(payload))


def nest_deeply(case):
    case.release_sig.write_text("[" * 100_000)


def write_a_huge_signature(case):
    case.release_sig.write_bytes(case.release_sig.read_bytes() + b" " * (1 << 20))


def write_many_signatures(case):
    for k in range(64):
        shutil.copy(case.release_sig, case.path / f"signatures/{k}.sig")


def link_the_signature_to_a_device(case):
    case.release_sig.unlink()
    case.release_sig.symlink_to("/dev/zero")


def put_a_pipe_for_the_signature(case):
    case.release_sig.unlink()
    os.mkfifo(case.release_sig)


# The policy's own files


def damage_the_memory_of_releases(case):
    case.policy["state"] = str(case.folder / "state.json")
    (case.folder / "state.json").write_text('{"dense.offramp": "none"}')


ALL = r"demands a release that a trusted key signed: (later-\w+\.sig .*; )?release-\w+\.sig"
CHEATS = [
    (swap_stages, "stage0.onnx has 705 bytes where manifest.json says 698"),
    (alter_weights, "weights.bin is damaged"),
    (alter_golden_samples, "golden.npz is damaged"),
    (alter_weights_and_manifest, f"{ALL} is of another manifest.json than the one that is here"),
    (append_a_space_to_the_manifest, f"{ALL} is of another manifest.json than the one that is here"),
    (rename_a_class, f"{ALL} is of another manifest.json"),
    (take_an_unsigned_manifest, f"{ALL} is of another manifest.json"),
    (link_the_manifest, "manifest.json leads outside the bundle through a link"),
    (alter_a_calibration, "default.json is refused: it was altered after it was signed"),
    (alter_a_calibration_of_the_board, "board.json is refused: it was altered after it was signed"),
    (swap_calibrations, "default.json is refused: it was altered after it was signed"),
    (add_a_calibration, "new.json is refused: it is not signed by a trusted key. Remove it, or"),
    (link_a_calibration, "linked.json leads outside the bundle through a link"),
    (
        bring_back_a_withdrawn_calibration,
        r"withdrawn.json is refused: it is not signed .*earlier.sig is of another manif",
    ),
    (take_a_calibration_from_outside, "outside.json is refused: it lies outside the bundle"),
    (climb_out_of_the_calibrations, "outside.json is refused"),
    (
        strip_the_signatures,
        "trust= demands a release that a trusted key signed: it is not signed. Bring a signed release",
    ),
    (empty_the_signatures, f"{ALL} is not of its form"),
    (keep_the_signature_of_the_board_alone, r"the key \w{16} may sign calibrations and builds, but no release"),
    (sign_with_another_key, rf"{ALL} is signed with the key \w{{16}}, which is not trusted"),
    (claim_another_key, rf"{ALL} was altered, or not made with the key \w{{16}} that it names"),
    (release_with_the_key_of_a_board, "may sign calibrations and builds, but no release"),
    (alter_the_model_with_the_key_of_a_board, "may sign calibrations and builds, but no release"),
    (
        sign_a_calibration_with_another_key,
        "new.json is refused: it is not signed by a trusted key .*which is not trusted",
    ),
    (revoke_the_release_key, rf"{ALL} is signed with the key \w{{16}}, which is revoked: it was stolen"),
    (revoke_the_key_of_the_board, "board.json is refused: it is not signed .*which is revoked: the board was lost"),
    (trust_no_board, "board.json is refused: it is not signed by a trusted key"),
    *((trust_a_strange_key(kind), "is no public key on the curves P-256, P-384 or P-521") for kind in STRANGE_KEYS),
    (
        play_an_old_release_back,
        r"is release 5 of dense.offramp, and a later one was accepted here \(.*\): 7. Bring that",
    ),
    (offer_too_old_a_release, "is release 7 of dense.offramp, and trust= takes releases from 8. Bring that"),
    (swap_in_another_bundle, "it was signed as other.offramp, and trust= takes dense.offramp"),
    (swap_the_signatures_of_two_bundles, f"{ALL} is of another manifest.json"),
    (take_a_board_signature_of_another_manifest, "board.json is refused: it is not signed"),
    (sign_the_model_alone, f"{ALL} is of another manifest.json"),
    *(
        (cheat, f"{ALL} is not of its form")
        for cheat in (
            *(empty_the_list_of_signatures, put_a_bad_signature_before_the_good_one, alter_the_payload_type),
            *(put_a_bad_signature_behind_the_good_one, alter_the_media_type, add_a_field, leave_the_key_out),
            *(give_a_certificate_for_a_key, write_a_name_twice, write_a_name_twice_in_the_payload, nest_deeply),
            *(sign_another_statement, take_another_hash, give_a_number_below_zero),
        )
    ),
    *(
        (cheat, f"{ALL} was altered, or not made with the key")
        for cheat in (
            *(sign_another_payload_type, raise_the_number, rename_a_file, write_base64_otherwise),
            *(cut_the_signature, sign_with_zeros),
        )
    ),
    (name_a_file_twice, f"{ALL} names a file twice"),
    (write_a_huge_signature, f"{ALL} is larger than any signature"),
    (write_many_signatures, "has more than 64 signatures"),
    (link_the_signature_to_a_device, r"release-\w+\.sig leads outside the bundle through a link"),
    (put_a_pipe_for_the_signature, f"{ALL} cannot be read: It is no file"),
    (damage_the_memory_of_releases, "which remembers the releases that were accepted, is damaged"),
]


@pytest.mark.parametrize(("cheat", "words"), CHEATS, ids=[cheat.__name__ for cheat, _ in CHEATS])
def test_cheats_are_refused(case, cheat, words):
    cheat(case)
    with pytest.raises(BundleError, match=words) as refused:
        case.use()
    assert len(str(refused.value)) <= 600 + 3 * len(str(case.folder))


def test_there_are_forty_ways_to_cheat():
    assert len({cheat.__name__ for cheat, _ in CHEATS}) == len(CHEATS) >= 40


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(st.data())
def test_altered_signatures_never_say_something_else(signed, keys, data):
    """Bytes of the file, or of the payload in it, are replaced, removed, put in and swapped."""
    (path,) = (signed / "signatures").glob("release-*")
    honest = path.read_bytes()
    trusted = {keys.release.key.fingerprint: keys.release.key}
    expected = read_signature(honest, trusted, revoked={})
    document = json.loads(honest)
    in_payload = data.draw(st.booleans())
    content = bytearray(b64decode(document["dsseEnvelope"]["payload"]) if in_payload else honest)
    for _ in range(data.draw(st.integers(1, 3))):
        start, length = data.draw(st.integers(0, len(content))), data.draw(st.integers(0, 40))
        piece = data.draw(
            st.one_of(st.binary(max_size=8), st.sampled_from([b"{", b"}", b"[]", b'"', b",", b"null", b"1e999"]))
        )
        content[start : start + length] = piece
    if in_payload:
        document["dsseEnvelope"]["payload"] = b64encode(content).decode()
        content = bytearray(json.dumps(document).encode())
    try:
        found = read_signature(bytes(content), trusted, revoked={})
    except TrustError as error:
        assert len(str(error)) < 300
    else:
        assert found == expected  # white space, say
