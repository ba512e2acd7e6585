// SPDX-License-Identifier: GPL-2.0-only
/* A VFIO variant driver for tests: vfio_pci_core and a state of its own, which migrates. */

#include <linux/delay.h>
#include <linux/version.h>

#include "migration.c"

#define LAB_REGION_TYPE		(VFIO_REGION_TYPE_PCI_VENDOR_TYPE | PCI_VENDOR_ID_REDHAT)
#define LAB_REGION_SUBTYPE	0x6c62

LAB_PARAM(unsigned int, uint, need_pf, 0,
	  "No PF on its driver: 0 goes on, 1 binds as plain, 2 refuses");
LAB_PARAM(unsigned int, uint, probe_errno, 0, "The probe fails with this");
LAB_PARAM(unsigned int, uint, probe_delay_ms, 0, "The probe takes so long");

static ssize_t lab_region_rw(struct vfio_pci_core_device *core, char __user *buf, size_t count,
			     loff_t *ppos, bool iswrite)
{
	struct lab_device *lab = lab_of(&core->vdev);
	loff_t pos = *ppos & VFIO_PCI_OFFSET_MASK;

	guard(lab)(lab);
	if (pos >= lab->size)
		return -EINVAL;
	count = min_t(size_t, count, lab->size - pos);
	lab->dirty |= iswrite;
	if (iswrite ? copy_from_user(lab->content + pos, buf, count) :
		      copy_to_user(buf, lab->content + pos, count))
		return -EFAULT;
	*ppos += count;
	return count;
}

static void lab_region_release(struct vfio_pci_core_device *core, struct vfio_pci_region *region)
{
}

static const struct vfio_pci_regops lab_regops = {
	.rw = lab_region_rw,
	.release = lab_region_release,
};

static int lab_open(struct vfio_device *vdev)
{
	struct lab_device *lab = lab_of(vdev);
	int err = vfio_pci_core_enable(&lab->core);

	if (err)
		return err;
	if (vdev->mig_ops)
		err = vfio_pci_core_register_dev_region(&lab->core, LAB_REGION_TYPE,
							LAB_REGION_SUBTYPE, &lab_regops, lab->size,
							VFIO_REGION_INFO_FLAG_READ |
							VFIO_REGION_INFO_FLAG_WRITE, NULL);
	if (err) {
		vfio_pci_core_disable(&lab->core);
		return err;
	}
	lab_reset_done(lab->core.pdev);	/* not every device has a reset of its own */
	lab->open = true;
	vfio_pci_core_finish_enable(&lab->core);
	return 0;
}

static void lab_close(struct vfio_device *vdev)
{
	struct lab_device *lab = lab_of(vdev);

	lab->open = false;
	lab_reset_done(lab->core.pdev);
	vfio_pci_core_close_device(vdev);
}

/* The PF's driver leaves, and takes along what is kept for it: the way to this VF's state. */
static void lab_pf_leaves(void *data)
{
	struct lab_device *lab = data;

	scoped_guard(lab, lab) {
		lab->pf_left = true;
		lab_end(lab);
	}
	vfio_put_device(&lab->core.vdev);
}

static void lab_pf_put(struct lab_device *lab)
{
	if (lab->pf && !READ_ONCE(lab->pf_left))
		devm_release_action(lab->pf, lab_pf_leaves, lab);
}

static int lab_init(struct vfio_device *vdev)
{
	struct lab_device *lab = lab_of(vdev);
	struct pci_dev *pdev = to_pci_dev(vdev->dev);
	bool has_pf = pdev->is_virtfn && pci_physfn(pdev)->dev.driver;
	int err;

	if (need_pf > 1 && !has_pf)
		return -ENODEV;
	if (!in_range(state_bytes, 1, SZ_512M))
		return -EINVAL;
	err = vfio_pci_core_init_dev(vdev);
	if (err || (need_pf && !has_pf))
		return err;
	mutex_init(&lab->lock);
	lab->size = state_bytes;
	lab->content = kvzalloc(lab->size, GFP_KERNEL_ACCOUNT);
	if (!lab->content) {
		vfio_pci_core_release_dev(vdev);
		return -ENOMEM;
	}
	vdev->migration_flags = VFIO_MIGRATION_STOP_COPY | (precopy ? VFIO_MIGRATION_PRE_COPY : 0) |
				(p2p ? VFIO_MIGRATION_P2P : 0);
	vdev->mig_ops = &lab_mig_ops;
	return 0;
}

static void lab_release(struct vfio_device *vdev)
{
	kvfree(lab_of(vdev)->content);
	vfio_pci_core_release_dev(vdev);
}

static const struct vfio_device_ops lab_ops = {
	.name = KBUILD_MODNAME,
	.init = lab_init,
	.release = lab_release,
	.open_device = lab_open,
	.close_device = lab_close,
	.ioctl = vfio_pci_core_ioctl,
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 19, 0)
	.get_region_info_caps = vfio_pci_ioctl_get_region_info,
	.match_token_uuid = vfio_pci_core_match_token_uuid,
#endif
	.device_feature = vfio_pci_core_ioctl_feature,
	.read = vfio_pci_core_read,
	.write = vfio_pci_core_write,
	.mmap = vfio_pci_core_mmap,
	.request = vfio_pci_core_request,
	.match = vfio_pci_core_match,
	.bind_iommufd = vfio_iommufd_physical_bind,
	.unbind_iommufd = vfio_iommufd_physical_unbind,
	.attach_ioas = vfio_iommufd_physical_attach_ioas,
	.detach_ioas = vfio_iommufd_physical_detach_ioas,
};

static int lab_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct lab_device *lab;
	int err = 0;

	msleep(probe_delay_ms);
	if (probe_errno)
		return -min(probe_errno, (unsigned int)MAX_ERRNO);
	lab = vfio_alloc_device(lab_device, core.vdev, &pdev->dev, &lab_ops);
	if (IS_ERR(lab))
		return PTR_ERR(lab);
	dev_set_drvdata(&pdev->dev, &lab->core);
	if (need_pf && lab->core.vdev.mig_ops) {
		get_device(&lab->core.vdev.device);
		lab->pf = &pci_physfn(pdev)->dev;
		err = devm_add_action_or_reset(lab->pf, lab_pf_leaves, lab);
	}
	if (!err)
		err = vfio_pci_core_register_device(&lab->core);
	if (err) {
		lab_pf_put(lab);
		vfio_put_device(&lab->core.vdev);
	}
	return err;
}

static void lab_remove(struct pci_dev *pdev)
{
	struct lab_device *lab = dev_get_drvdata(&pdev->dev);

	vfio_pci_core_unregister_device(&lab->core);
	lab_pf_put(lab);
	vfio_put_device(&lab->core.vdev);
}

#define LAB_ID(v, d, sv, sd) \
	{ .vendor = (v), .device = (d), .subvendor = LAB_SUB(sv), .subdevice = LAB_SUB(sd), \
	  .override_only = PCI_ID_F_VFIO_DRIVER_OVERRIDE }

static const struct pci_device_id lab_table[] = {
	LAB_ID(PCI_VENDOR_ID_INTEL, 0x10ca, 0x1af4, 0x1100),	/* QEMU's igb VF */
	LAB_ID(PCI_VENDOR_ID_REDHAT, 0x0010, 0x1af4, 0x1100),	/* QEMU's NVMe, PF or VF */
	LAB_ID(PCI_VENDOR_ID_MELLANOX, 0x1018, 0x15b3, 0x0016),	/* the lab's vfio-user function */
	{}
};
MODULE_DEVICE_TABLE(pci, lab_table);

static const struct pci_error_handlers lab_err_handlers = {
	.reset_done = lab_reset_done,
	.error_detected = vfio_pci_core_aer_err_detected,
};

static struct pci_driver lab_driver = {
	.name = KBUILD_MODNAME,
	.id_table = lab_table,
	.probe = lab_probe,
	.remove = lab_remove,
	.err_handler = &lab_err_handlers,
	.driver_managed_dma = true,
};
module_pci_driver(lab_driver);

MODULE_DESCRIPTION("A VFIO variant driver that misbehaves on request, for tests");
MODULE_LICENSE("GPL");
