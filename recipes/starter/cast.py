"""Who speaks: Kokoro's voices that are learnt, those that guide them, and their names in Menura."""

PAIRS = {
    "shipped": ("af_jessica", "bm_daniel"),
    "british": ("bf_emma", "bm_daniel"),
    "american": ("af_heart", "am_michael"),
}
"""Targets that speak the same sentences. The first pair's voices are shipped; the others taught their network first."""
GUIDES = {
    "shipped": (
        "af_bella", "af_sarah", "af_kore", "af_nova", "am_fenrir", "am_puck", "am_onyx", "am_eric", "af_heart",
        "bf_isabella", "bm_george", "bm_fable", "am_michael", "bf_emma", "af_nicole", "am_adam", "am_liam", "bf_alice",
        "bf_lily", "bm_lewis", "af_river", "am_echo",
    ),
    "british": (
        "af_bella", "af_sarah", "af_kore", "af_nova", "am_fenrir", "am_puck", "am_onyx", "am_eric", "af_heart",
        "bf_isabella", "bm_george", "bm_fable", "am_michael",
    ),
    "american": (
        "af_bella", "af_sarah", "af_kore", "af_nova", "am_fenrir", "am_puck", "am_onyx", "am_eric", "bf_emma",
        "bf_isabella", "bm_george", "bm_fable",
    ),
}  # fmt: skip
NAMES = {"af_jessica": "wren", "bf_emma": "emma", "bm_daniel": "heron", "af_heart": "heart", "am_michael": "michael"}
"""Kokoro's voices under the names that they have in Menura."""
