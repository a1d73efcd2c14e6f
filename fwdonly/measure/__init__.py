"""What a training costs, and how near its updates are to backpropagation's.

Energy, time and power of a region of host code (`Meter`); multiply-accumulates from the shapes alone (`work`);
operations and memory as the compiler has them (`compile_step`); angles between two updates (`alignment`); what
layers know of the classes (`probe`).
"""

from . import opinions, sensors
from .angles import Alignment, FeedbackAngles, alignment, feedback_angles, with_alignment
from .arithmetic import Work, macs, optimizer_bytes, products, work
from .clock import Clock
from .meter import Meter, Window, wait_for_devices
from .opinions import CodeCarbon, Zeus
from .probes import Probes, probe
from .programs import Step, compile_step, device_peak, flops, memory
from .quantity import Quantity, total, unavailable
from .reading import Intensity, Opinion, Part, Reading, Sample, Span, carbon

__all__ = [
    "Alignment",
    "Clock",
    "CodeCarbon",
    "FeedbackAngles",
    "Intensity",
    "Meter",
    "Opinion",
    "Part",
    "Probes",
    "Quantity",
    "Reading",
    "Sample",
    "Span",
    "Step",
    "Window",
    "Work",
    "Zeus",
    "alignment",
    "carbon",
    "compile_step",
    "device_peak",
    "feedback_angles",
    "flops",
    "macs",
    "memory",
    "opinions",
    "optimizer_bytes",
    "probe",
    "products",
    "sensors",
    "total",
    "unavailable",
    "wait_for_devices",
    "with_alignment",
    "work",
]
