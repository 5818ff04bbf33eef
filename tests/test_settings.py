"""Settings: profiles are read, unknown and ill-typed values are refused with a way out."""

import pytest

from fairrecon_core.settings import Settings, load_settings, profiles


def test_every_shipped_profile_loads_under_its_own_name():
    assert {"smoke", "tutorial"} <= set(profiles())
    for name in profiles():
        assert load_settings(name).profile == name


def test_an_unknown_setting_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="unknown setting 'sed', did you mean 'seed'?"):
        load_settings("smoke", sed=3)


def test_an_unknown_profile_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown profile 'smok', did you mean 'smoke'.*tutorial"):
        load_settings("smok")


@pytest.mark.parametrize("value", ["many", 1.5, None, True])
def test_a_value_of_the_wrong_kind_is_refused(value):
    with pytest.raises(ValueError, match="'n_boot' takes int"):
        load_settings("smoke", n_boot=value)


def test_text_from_a_shell_means_the_same_as_the_value():
    assert load_settings("smoke", n_boot="300", mri_levels="[4, 8]", train="true") == load_settings(
        "smoke", n_boot=300, mri_levels=[4, 8], train=True
    )


def test_an_override_wins_over_the_profile_and_changes_the_fingerprint():
    assert load_settings("smoke", seed=7).seed == 7
    assert load_settings("smoke", seed=7).fingerprint() != load_settings("smoke").fingerprint()
    assert load_settings("smoke").fingerprint() == load_settings("smoke").fingerprint()


def test_a_profile_file_may_lie_anywhere(tmp_path):
    path = tmp_path / "mine.yml"
    path.write_text("seed: 5\n")
    settings = load_settings(str(path))
    assert (settings.profile, settings.seed, settings.image_size) == ("mine", 5, Settings().image_size)


def test_a_profile_that_is_not_a_mapping_is_refused(tmp_path):
    path = tmp_path / "list.yml"
    path.write_text("- seed\n")
    with pytest.raises(ValueError, match="name: value"):
        load_settings(str(path))
