"""Exits in networks whose encoder and decoder each read the input."""

import torch
from torch import nn

from offramp.export import attach

WORDS, WIDTH, TOKENS = 11, 8, 6


class EncoderDecoder(nn.Module):
    """Every layer of the decoder reads what the encoder made, and the tokens by one later. Positions have layers of their own."""

    def __init__(self):
        super().__init__()
        self.shared, self.positions = nn.Embedding(WORDS, WIDTH), nn.Embedding(TOKENS, WIDTH)
        self.place = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.ReLU(), nn.Linear(4 * WIDTH, WIDTH))
        self.encoder = nn.ModuleList([nn.TransformerEncoderLayer(WIDTH, 2, 16, batch_first=True) for _ in range(2)])
        self.decoder = nn.ModuleList([nn.TransformerDecoderLayer(WIDTH, 2, 16, batch_first=True) for _ in range(2)])
        self.classify = nn.Linear(WIDTH, 3)

    def forward(self, tokens):
        later = tokens.new_zeros(tokens.shape)
        later[:, 1:] = tokens[:, :-1].clone()
        places = self.place(self.positions(torch.arange(tokens.shape[1]).expand(tokens.shape)))
        x, y = self.shared(tokens) + places, self.shared(later) + places
        for layer in self.encoder:
            x = layer(x)
        for layer in self.decoder:
            y = layer(y, x)
        return self.classify(y[:, -1])


def test_layers_on_all_paths_from_one_of_two_look_ups_of_the_tokens_get_exits():
    tokens = torch.arange(5 * TOKENS).reshape(5, TOKENS) % WORDS
    network = attach(EncoderDecoder().eval(), tokens, fractions=(0.35, 0.5, 0.7))
    assert [name.partition(".")[0] for name in network.places] == ["encoder", "encoder", "decoder"]
    assert [tuple(x.shape) for x in network(tokens)] == [(5, 3)] * 4
