"""ResNet and Swin against Hugging Face's as the independent oracle, at odd sizes too, and under torch.export."""

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="the oracle is Hugging Face's implementation")

from mask2edge.train.foreign.huggingface_names import ENCODER, IGNORED, RULES  # noqa: E402
from mask2edge.train.foreign.tensor_names import convert  # noqa: E402
from mask2edge.train.model.backbones.resnet import ResNet, build_resnet  # noqa: E402
from mask2edge.train.model.backbones.swin import VARIANTS, SwinTransformer, build_swin  # noqa: E402

STAGES = ["stage1", "stage2", "stage3", "stage4"]
SIZES = [(64, 96), (61, 107), (33, 200)]


def loaded(ours, theirs):
    """Our backbone with their random weights, through the names that import_weights uses; both in float64."""
    from reference_models import randomise

    randomise(theirs, seed=3)
    foreign = {f"{ENCODER}.{name}": tensor for name, tensor in theirs.state_dict().items()}
    wanted = {f"backbone.{name}": tensor for name, tensor in ours.state_dict().items()}
    weights = convert(foreign, wanted, RULES, IGNORED, "test")
    ours.load_state_dict({name.removeprefix("backbone."): tensor for name, tensor in weights.items()})
    return ours.double().eval(), theirs.double().eval()


@pytest.fixture(scope="module")
def resnets():
    config = transformers.ResNetConfig(
        depths=[2, 1, 2, 1], hidden_sizes=[32, 64, 128, 256], embedding_size=8, out_features=STAGES
    )
    return loaded(ResNet((2, 1, 2, 1), width=8), transformers.ResNetBackbone(config))


@pytest.fixture(scope="module")
def swins(tmp_path_factory):
    config = transformers.SwinConfig(
        embed_dim=12, depths=[2, 2, 4, 2], num_heads=[1, 2, 3, 4], window_size=5, out_features=STAGES
    )
    theirs = transformers.SwinBackbone(config)
    folder = tmp_path_factory.mktemp("swin")
    from reference_models import randomise
    from safetensors.torch import load_file

    randomise(theirs, seed=3)
    theirs.save_pretrained(folder)  # a file's names are not those in memory
    foreign = {f"{ENCODER}.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    ours = SwinTransformer(12, (2, 2, 4, 2), (1, 2, 3, 4), window=5)
    wanted = {f"backbone.{name}": tensor for name, tensor in ours.state_dict().items()}
    weights = convert(foreign, wanted, RULES, IGNORED, "test")
    ours.load_state_dict({name.removeprefix("backbone."): tensor for name, tensor in weights.items()})
    return ours.double().eval(), theirs.double().eval()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["resnets", "swins"])
def test_backbones_equal_the_oracle(kind, size, request):
    ours, theirs = request.getfixturevalue(kind)
    pixels = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        got, expected = ours(pixels), theirs(pixels).feature_maps
    for mine, other, channels in zip(got, expected, ours.channels, strict=True):
        assert mine.shape == other.shape
        assert mine.shape[1] == channels
        assert (mine - other).abs().max() < 1e-10


@pytest.mark.parametrize(
    ("build", "name", "channels", "millions"),
    [
        (build_resnet, "resnet50", (256, 512, 1024, 2048), 23.5),
        (build_resnet, "resnet101", (256, 512, 1024, 2048), 42.5),
        (build_swin, "swin-tiny", (96, 192, 384, 768), 27.5),
        (build_swin, "swin-small", (96, 192, 384, 768), 48.8),
        (build_swin, "swin-base", (128, 256, 512, 1024), 86.9),
        (build_swin, "swin-large", (192, 384, 768, 1536), 195.2),
    ],
)
def test_backbones_have_the_published_sizes(build, name, channels, millions):
    with torch.device("meta"):
        backbone = build(name)
    assert backbone.channels == channels
    count = sum(tensor.numel() for tensor in backbone.state_dict().values() if tensor.is_floating_point())
    assert count / 1e6 == pytest.approx(millions, rel=0.01)


def test_backbones_strides_of_a_full_swin():
    assert set(VARIANTS) == {"swin-tiny", "swin-small", "swin-base", "swin-large"}
    with torch.no_grad():
        features = build_swin("swin-tiny").eval()(torch.zeros(1, 3, 64, 96))
    assert [tuple(f.shape[2:]) for f in features] == [(16, 24), (8, 12), (4, 6), (2, 3)]


def test_backbones_drop_paths_in_training_alone():
    torch.manual_seed(0)
    swin = SwinTransformer(12, (2, 2, 4, 2), (1, 2, 3, 4), window=5, drop_path=0.3)
    rates = [block.drop_path for stage in swin.stages for block in stage.blocks]
    assert rates == pytest.approx([0.3 * i / 9 for i in range(10)])
    pixels = torch.randn(2, 3, 40, 40)
    with torch.no_grad():
        swin.train()
        assert not torch.equal(swin(pixels)[3], swin(pixels)[3])
        swin.eval()
        assert torch.equal(swin(pixels)[3], swin(pixels)[3])


def test_backbones_drop_path_keeps_the_mean():
    block = SwinTransformer(12, (1,), (1,), window=5, drop_path=0.0).stages[0].blocks[0].train()
    block.drop_path = 0.25
    torch.manual_seed(0)
    dropped = block._drop(torch.ones(4000, 1, 1, 1))
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert dropped.mean() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("kind", ["resnets", "swins"])
def test_backbones_export_with_a_fixed_size(kind, request):
    backbone, _ = request.getfixturevalue(kind)
    example = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    exported = torch.export.export(backbone, (example,)).module()
    assert_same(exported, backbone, example)


@pytest.mark.parametrize("kind", ["resnets", pytest.param("swins", marks=pytest.mark.slow)])
def test_backbones_export_with_dynamic_sizes(kind, request):
    """The example has more than one window at every stage: torch.export takes a count of 1 for a constant."""
    backbone, _ = request.getfixturevalue(kind)
    height = torch.export.Dim("height", min=1, max=16)
    width = torch.export.Dim("width", min=1, max=16)
    shapes = {"pixels": {0: torch.export.Dim("batch", min=1, max=8), 2: 32 * height, 3: 32 * width}}
    example = torch.randn(2, 3, 192, 224, dtype=torch.float64)
    exported = torch.export.export(backbone, (example,), dynamic_shapes=shapes).module()
    for size in ((2, 3, 192, 224), (1, 3, 256, 192), (3, 3, 224, 352)):
        assert_same(exported, backbone, torch.randn(*size, dtype=torch.float64))


def assert_same(exported, backbone, pixels):
    with torch.no_grad():
        for mine, expected in zip(exported(pixels), backbone(pixels), strict=True):
            assert (mine - expected).abs().max() < 1e-10
