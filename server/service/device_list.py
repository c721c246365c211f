"""The devices of a survey as JSON values: what `vkbackend devices --json` prints and /api/devices answers."""

from vkbackend.device.selection import Survey


def as_dict(found: Survey) -> dict:
    listed = [device.as_dict() | {"used": found.uses_device and device in found.usable, "reason": found.reasons[device.index]}
              for device in found.devices]
    return {"vulkan": found.is_switched_on, "chosen": found.chosen.index if found.chosen else None,
            "order": [device.index for device in found.usable], "runs_on": found.sentence, "problem": found.problem, "devices": listed}
