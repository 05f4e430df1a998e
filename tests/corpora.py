"""Corpus settings for tests of other things: nothing but line ends, controls and exact dedup, whatever the text."""

PLAIN = {
    "cleaning": {"repair_unicode": False, "drop_boilerplate": False, "mask_personal_data": False},
    "quality": {"judge_quality": False},
    "decontamination": {"decontaminate": False},
    "near_duplicates": {"drop_near_duplicates": False},
}
