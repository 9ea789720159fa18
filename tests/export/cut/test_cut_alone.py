def test_onnx_files_are_cut_where_torch_cannot_be_imported(dense_onnx, tmp_path, python):
    python(
        """
import sys
sys.modules["torch"] = None
from offramp.export import export
export(sys.argv[1], None, sys.argv[2])
""",
        dense_onnx,
        tmp_path / "b.offramp",
    )


def test_a_missing_extra_names_the_install_line(python):
    out = python(
        """
import sys
sys.modules["onnx_ir"] = None
from offramp.errors import MissingError
try:
    import offramp.export
except MissingError as error:
    print(error, error.exit_code)
"""
    )
    assert "pip install 'offramp[onnx]'" in out and out.split()[-1] == "4"
