//! Request numbers, as `include/uapi/linux/{vfio,iommufd}.h` compose them: all `_IO`, so without size and direction.

use rustix::ioctl::{Opcode, opcode};

/// `VFIO_TYPE` and `IOMMUFD_TYPE`.
const TYPE: u8 = b';';

/// `_IO(VFIO_TYPE, VFIO_BASE + n)`.
const fn vfio(n: u8) -> Opcode {
    opcode::none(TYPE, 100 + n)
}

/// `_IO(IOMMUFD_TYPE, IOMMUFD_CMD_BASE + n)`.
const fn iommufd(n: u8) -> Opcode {
    opcode::none(TYPE, 0x80 + n)
}

/// Defines each number, asserts it, and lists them by C name for the header test.
macro_rules! opcodes {
    ($($name:ident = $number:expr, $asserted:literal, $theirs:literal;)*) => {
        $(pub(crate) const $name: Opcode = $number;)*

        // The low 16 bits are type and number everywhere; above them, mips, powerpc and sparc spell "no data" as 1.
        $(const _: () = assert!($name & 0xffff == $asserted);)*
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64", target_arch = "s390x"))]
        const _: () = { $(assert!($name == $asserted);)* };

        #[cfg(test)]
        pub(crate) const NAMED: &[(&str, Opcode)] = &[$(($theirs, $name)),*];
    };
}

opcodes! {
    GET_API_VERSION = vfio(0), 0x3b64, "VFIO_GET_API_VERSION";
    CHECK_EXTENSION = vfio(1), 0x3b65, "VFIO_CHECK_EXTENSION";
    SET_IOMMU = vfio(2), 0x3b66, "VFIO_SET_IOMMU";
    GROUP_GET_STATUS = vfio(3), 0x3b67, "VFIO_GROUP_GET_STATUS";
    GROUP_SET_CONTAINER = vfio(4), 0x3b68, "VFIO_GROUP_SET_CONTAINER";
    GROUP_UNSET_CONTAINER = vfio(5), 0x3b69, "VFIO_GROUP_UNSET_CONTAINER";
    GROUP_GET_DEVICE_FD = vfio(6), 0x3b6a, "VFIO_GROUP_GET_DEVICE_FD";
    DEVICE_GET_INFO = vfio(7), 0x3b6b, "VFIO_DEVICE_GET_INFO";
    DEVICE_GET_REGION_INFO = vfio(8), 0x3b6c, "VFIO_DEVICE_GET_REGION_INFO";
    DEVICE_GET_IRQ_INFO = vfio(9), 0x3b6d, "VFIO_DEVICE_GET_IRQ_INFO";
    DEVICE_SET_IRQS = vfio(10), 0x3b6e, "VFIO_DEVICE_SET_IRQS";
    DEVICE_RESET = vfio(11), 0x3b6f, "VFIO_DEVICE_RESET";
    DEVICE_GET_PCI_HOT_RESET_INFO = vfio(12), 0x3b70, "VFIO_DEVICE_GET_PCI_HOT_RESET_INFO";
    DEVICE_PCI_HOT_RESET = vfio(13), 0x3b71, "VFIO_DEVICE_PCI_HOT_RESET";
    DEVICE_FEATURE = vfio(17), 0x3b75, "VFIO_DEVICE_FEATURE";
    DEVICE_BIND_IOMMUFD = vfio(18), 0x3b76, "VFIO_DEVICE_BIND_IOMMUFD";
    DEVICE_ATTACH_IOMMUFD_PT = vfio(19), 0x3b77, "VFIO_DEVICE_ATTACH_IOMMUFD_PT";
    DEVICE_DETACH_IOMMUFD_PT = vfio(20), 0x3b78, "VFIO_DEVICE_DETACH_IOMMUFD_PT";
    MIG_GET_PRECOPY_INFO = vfio(21), 0x3b79, "VFIO_MIG_GET_PRECOPY_INFO";
    IOMMU_GET_INFO = vfio(12), 0x3b70, "VFIO_IOMMU_GET_INFO";
    IOMMU_MAP_DMA = vfio(13), 0x3b71, "VFIO_IOMMU_MAP_DMA";
    IOMMU_UNMAP_DMA = vfio(14), 0x3b72, "VFIO_IOMMU_UNMAP_DMA";
    IOMMU_DIRTY_PAGES = vfio(17), 0x3b75, "VFIO_IOMMU_DIRTY_PAGES";
    IOMMU_DESTROY = iommufd(0), 0x3b80, "IOMMU_DESTROY";
    IOMMU_IOAS_ALLOC = iommufd(1), 0x3b81, "IOMMU_IOAS_ALLOC";
    IOMMU_IOAS_IOVA_RANGES = iommufd(4), 0x3b84, "IOMMU_IOAS_IOVA_RANGES";
    IOMMU_IOAS_MAP = iommufd(5), 0x3b85, "IOMMU_IOAS_MAP";
    IOMMU_IOAS_UNMAP = iommufd(6), 0x3b86, "IOMMU_IOAS_UNMAP";
    IOMMU_VFIO_IOAS = iommufd(8), 0x3b88, "IOMMU_VFIO_IOAS";
    IOMMU_HWPT_ALLOC = iommufd(9), 0x3b89, "IOMMU_HWPT_ALLOC";
    IOMMU_GET_HW_INFO = iommufd(10), 0x3b8a, "IOMMU_GET_HW_INFO";
    IOMMU_HWPT_SET_DIRTY_TRACKING = iommufd(11), 0x3b8b, "IOMMU_HWPT_SET_DIRTY_TRACKING";
    IOMMU_HWPT_GET_DIRTY_BITMAP = iommufd(12), 0x3b8c, "IOMMU_HWPT_GET_DIRTY_BITMAP";
}
