"""What the other folders of export need of ONNX graphs: axes, multiply-accumulates, walks, edits, running."""
