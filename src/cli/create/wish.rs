//! What `create` is asked for, as far as the command line alone says it: read before any host is opened.

use super::{bad_parameter, usage};
use crate::cli::args::CreateArgs;
use crate::cli::report::{Exit, Trouble};
use crate::model::offer::OfferKind;
use crate::model::vgpu::VgpuTypeId;
use crate::model::{BusName, counted};
use crate::plan::Wanted;
use crate::plan::parameters::{self, Parameters};
use crate::plan::queues::{self, QueueParameters};
use crate::plan::subfunctions::{self, SfWish};

/// One type, with its own parameters.
pub(super) enum Wish {
    Vfs(Parameters),
    Mdevs(BusName, Parameters),
    Queues(QueueParameters),
    Subfunctions(SfWish),
    Vgpus(VgpuTypeId),
}

impl Wish {
    pub(super) fn read(args: &CreateArgs) -> Result<Self, Trouble> {
        Ok(match &args.kind {
            OfferKind::Vf => Self::Vfs(parameters::parse(&args.set)?),
            OfferKind::Mdev(kind) => Self::Mdevs(kind.clone(), parameters::parse(&args.set)?),
            OfferKind::Wq => {
                keep_to(args, "a WQ is given to the driver that --set driver-name=DRIVER says")?;
                Self::Queues(queues::parse(&args.set)?)
            }
            OfferKind::Sf => {
                keep_to(args, "leave it out: VFIO cannot assign a subfunction, whose auxiliary device finds its own")?;
                Self::Subfunctions(subfunctions::parse(&args.set, args.count)?)
            }
            OfferKind::Vgpu(0) => {
                return Err(
                    usage("vgpu:0 is no vGPU: 0 is what takes one away").remedy("see what there is: vfioadm types")
                );
            }
            OfferKind::Vgpu(id) => {
                keep_to(args, "leave it out: a vGPU stays on NVIDIA's driver, which is its VFIO driver")?;
                if let Some(set) = args.set.first() {
                    let message = format!("a vGPU has no parameter {}", set.key);
                    return Err(Trouble::new(Exit::Usage, "bad-parameter", message).remedy("leave --set out"));
                }
                Self::Vgpus(*id)
            }
        })
    }
}

/// Refuses the options that are of VFs and mdevs.
fn keep_to(args: &CreateArgs, driver: &str) -> Result<(), Trouble> {
    let kind = &args.kind;
    if args.uuid.is_some() {
        return Err(usage(&format!("--uuid names an mdev, and a {kind} has a name of its own")).remedy("leave it out"));
    }
    if args.pool.is_some() {
        return Err(usage(&format!("--pool is of VFs, and {kind} is none")).remedy("leave it out"));
    }
    if args.driver != Wanted::Best || args.no_fallback {
        return Err(usage("--driver and --no-fallback are of VFs").remedy(driver));
    }
    Ok(())
}

impl From<queues::QueueError> for Trouble {
    fn from(error: queues::QueueError) -> Self {
        use queues::QueueError as Of;
        let message = error.to_string();
        let (id, remedy) = match error {
            Of::Parameter(error) => return bad_parameter(error, &queues::KEYS),
            Of::SharedAlone(_) => {
                return Self::new(Exit::Usage, "bad-parameter", message).remedy("add --set mode=shared");
            }
            Of::Threshold { size, .. } => ("bad-parameter", format!("ask for {size} at most")),
            Of::NotConfigurable(_) => ("not-configurable", String::from("use its WQs as they are: vfioadm list")),
            Of::Halted(name) => ("not-usable", format!("see why it has stopped: dmesg | grep {name}")),
            Of::NoPasid { what: "shared", .. } => ("no-pasid", String::from("make it dedicated: --set mode=dedicated")),
            Of::NoPasid { .. } => (
                "no-pasid",
                String::from(
                    "boot with the IOMMU in scalable mode (intel_iommu=on,sm_on), or ask for --set type=kernel",
                ),
            ),
            Of::NoneLeft { device, .. } => ("none-left", format!("see what it has: vfioadm types {device}")),
            Of::SizeIsFixed { device, .. } => (
                "size-is-fixed",
                format!(
                    "destroy its other WQs, which disables it with the last; see what it has: vfioadm types {device}"
                ),
            ),
            Of::NoRoom { left, .. } => {
                ("no-room", format!("ask for less: --set size=N, {} in all", counted(left, "entry")))
            }
            Of::NoGroup { device, .. } => {
                ("no-such-group", format!("see which it has: vfioadm -o json types {device}"))
            }
            Of::NoEngine { device, .. } => {
                ("no-engine", format!("see which group has which: vfioadm -o json types {device}"))
            }
            Of::Others { .. } => ("needs-yes", String::from("enable it with what is configured: --yes")),
            Of::NoQueue { device, .. } => ("no-such-device", format!("see which it has: vfioadm types {device}")),
            Of::HasSize { device, .. } => (
                "size-is-fixed",
                format!("leave size as it is, or destroy all WQs of {device}, which disables it with the last"),
            ),
            Of::Configured(queue) => {
                ("not-usable", format!("take another, or clear it: echo none > /sys/bus/dsa/devices/{queue}/type"))
            }
            Of::Differs { queue, .. } => ("not-as-wanted", format!("destroy it first: vfioadm destroy {queue}")),
            Of::NoDriver(_) => (
                "no-such-driver",
                String::from("see what is: ls /sys/bus/dsa/drivers; crypto comes with module iaa_crypto"),
            ),
            Of::Unsupported { key, .. } => {
                ("parameter-unsupported", format!("leave {} out", key.attribute().replace('_', "-")))
            }
            Of::NotEnabled(_) => ("not-made-here", String::from("see what there is: vfioadm list")),
            Of::InUse { .. } => ("device-open", String::from("end the programs that submit to it, and ask again")),
            Of::Unknown(name) => ("not-a-parent", format!("see what can be made: vfioadm types {name}")),
        };
        Self::new(Exit::Failed, id, message).state("as it was; nothing was tried").remedy(remedy)
    }
}
