// SPDX-License-Identifier: GPL-2.0-only
/*
 * The state of the lab's variant driver, and how it migrates; a rule of the
 * uAPI is broken when the parameter fault names it.
 *
 * The state is the content of a device specific region, which user space
 * reads and writes; a reset fills it from the parameter seed and the device's
 * address. It travels as a stream of records of one size, each the whole of it
 * at a time, with the device's ids and a CRC; the last says so.
 */

#include <linux/anon_inodes.h>
#include <linux/crc32.h>
#include <linux/file.h>
#include <linux/module.h>
#include <linux/prandom.h>
#include <linux/vfio_pci_core.h>

#define LAB_MAGIC		0x766d626c	/* "lbmv" */

static char fault[32] = "none";
module_param_string(fault, fault, sizeof(fault), 0644);
MODULE_PARM_DESC(fault, "The rule that every device breaks from now on; README.md has their names");

#define broken(rule)	sysfs_streq(fault, #rule)

#define LAB_PARAM(type, kind, name, value, text) \
	static type name = value; \
	module_param(name, kind, 0644); \
	MODULE_PARM_DESC(name, text)

LAB_PARAM(unsigned int, uint, state_bytes, SZ_64K, "Size of the state, 1 to 512 MiB");
LAB_PARAM(unsigned int, uint, seed, 0, "What a reset fills the state from, with the address");
LAB_PARAM(bool, bool, precopy, true, "What is bound has the PRE_COPY states");
LAB_PARAM(bool, bool, p2p, true, "What is bound has the P2P states");

struct lab_record {
	__le32 magic;
	__le32 last;
	__le16 id[4];
	__le32 length;		/* of the content that follows */
	__le32 crc;		/* of the record with 0 here, and its content */
};

/* A data transfer session; its file can outlive it. */
struct lab_stream {
	struct file *filp;
	struct lab_device *lab;
	bool saves, ended, paused;
	bool complete;		/* the last record is in buf, or was loaded */
	int error;
	size_t pos, size, initial;	/* of buf: read, there, and initial_bytes */
	u8 buf[];		/* two records */
};

struct lab_device {
	struct vfio_pci_core_device core;	/* first: it is the drvdata */
	struct device *pf;	/* has a resource of ours until its driver leaves */
	bool pf_left, open, deferred_reset;
	struct mutex lock;	/* all below; a reset never waits for it */
	bool dirty;
	enum vfio_device_mig_state state;
	struct lab_stream *stream;
	size_t size;
	u8 *content;
};

static struct lab_device *lab_of(struct vfio_device *vdev)
{
	return container_of(vdev, struct lab_device, core.vdev);
}

static void lab_end(struct lab_device *lab)
{
	if (lab->stream) {
		lab->stream->ended = true;
		fput(lab->stream->filp);
	}
	lab->stream = NULL;
}

static void lab_reset(struct lab_device *lab)
{
	struct rnd_state rnd;

	lab_end(lab);
	lab->state = VFIO_DEVICE_STATE_RUNNING;
	prandom_seed_state(&rnd, (u64)pci_dev_id(lab->core.pdev) << 32 | seed);
	prandom_bytes_state(&rnd, lab->content, lab->size);
}

/* As in mlx5: the layers above hold locks across a reset, so it never waits for ours. */
static void lab_unlock(struct lab_device *lab)
{
	do {
		if (xchg(&lab->deferred_reset, false))
			lab_reset(lab);
		mutex_unlock(&lab->lock);
	} while (READ_ONCE(lab->deferred_reset) && mutex_trylock(&lab->lock));
}

DEFINE_GUARD(lab, struct lab_device *, mutex_lock(&_T->lock), lab_unlock(_T))

static void lab_reset_done(struct pci_dev *pdev)
{
	struct lab_device *lab = dev_get_drvdata(&pdev->dev);

	if (lab->open ? broken(reset_keeps) || broken(stuck_error) : broken(close_keeps))
		return;
	if (!lab->content)
		return;
	xchg(&lab->deferred_reset, true);
	if (mutex_trylock(&lab->lock))
		lab_unlock(lab);
}

static size_t lab_record_size(struct lab_device *lab)
{
	return sizeof(struct lab_record) + lab->size;
}

/* The head of a record, without its CRC. */
static void lab_head(struct lab_device *lab, struct lab_record *record, __le32 last)
{
	struct pci_dev *pdev = lab->core.pdev;

	*record = (struct lab_record) {
		.magic = cpu_to_le32(LAB_MAGIC),
		.last = last,
		.id = { cpu_to_le16(pdev->vendor), cpu_to_le16(pdev->device),
			cpu_to_le16(pdev->subsystem_vendor), cpu_to_le16(pdev->subsystem_device) },
		.length = cpu_to_le32(lab->size),
	};
}

static size_t lab_append(struct lab_stream *s, bool last)
{
	struct lab_record *record;

	if (s->pos == s->size) {
		s->pos = 0;
		s->size = 0;
		s->initial = 0;
	}
	record = (struct lab_record *)(s->buf + s->size);
	memcpy(record + 1, s->lab->content, s->lab->size);
	lab_head(s->lab, record, cpu_to_le32(last));
	record->crc = cpu_to_le32(crc32_le(~0, (u8 *)record, lab_record_size(s->lab)));
	s->size += lab_record_size(s->lab) - (last && broken(loses_tail) ? sizeof(*record) : 0);
	s->complete = last;
	s->lab->dirty = false;
	return s->size;
}

static ssize_t lab_read(struct file *filp, char __user *to, size_t count, loff_t *pos)
{
	struct lab_stream *s = filp->private_data;

	guard(lab)(s->lab);
	if (s->ended && !broken(fd_survives))
		return -ENODEV;
	if (s->pos == s->size && !s->complete && !s->ended && s->saves && s->lab->dirty)
		lab_append(s, false);
	if (s->pos == s->size && (s->complete ? broken(eof_missing) : !broken(precopy_eof)))
		return -ENOMSG;
	count = min(count, s->size - s->pos);
	if (broken(eof_early) && s->complete && !s->paused) {
		count = min(count, lab_record_size(s->lab) / 2 - s->pos);
		s->paused = !count;
	}
	if (copy_to_user(to, s->buf + s->pos, count))
		return -EFAULT;
	s->pos += count;
	return count;
}

/* A record is there; what it has becomes the second half of buf. */
static bool lab_take(struct lab_stream *s)
{
	struct lab_record *record = (struct lab_record *)s->buf, wanted;
	u32 crc = le32_to_cpu(record->crc);

	record->crc = 0;
	if (crc32_le(~0, s->buf, s->size) != crc && !broken(accepts_corrupt))
		return false;
	lab_head(s->lab, &wanted, record->last);
	if (broken(accepts_foreign))
		memcpy(wanted.id, record->id, sizeof(wanted.id));
	if (memcmp(record, &wanted, sizeof(wanted)))
		return false;
	memcpy(s->buf + lab_record_size(s->lab), record + 1, s->lab->size);
	s->complete = !!record->last;
	s->size = 0;
	return true;
}

static ssize_t lab_write(struct file *filp, const char __user *from, size_t count, loff_t *pos)
{
	struct lab_stream *s = filp->private_data;
	size_t done, n;

	guard(lab)(s->lab);
	if (s->ended)
		return -ENODEV;
	for (done = 0; done < count && !s->saves && !s->error; done += n) {
		n = min(count - done, lab_record_size(s->lab) - s->size);
		if (copy_from_user(s->buf + s->size, from + done, n))
			return -EFAULT;
		s->size += n;
		/* Nothing comes after the last. */
		if (s->complete || (s->size == lab_record_size(s->lab) && !lab_take(s)))
			s->error = -EINVAL;
	}
	return s->error ?: count;
}

static long lab_precopy_info(struct file *filp, unsigned int cmd, unsigned long arg)
{
	size_t minsz = offsetofend(struct vfio_precopy_info, dirty_bytes);
	struct lab_stream *s = filp->private_data;
	struct vfio_precopy_info info;

	if (cmd != VFIO_MIG_GET_PRECOPY_INFO)
		return -ENOTTY;
	if (copy_from_user(&info, (void __user *)arg, minsz))
		return -EFAULT;
	guard(lab)(s->lab);
	if (s->ended)
		return -ENODEV;
	if (info.argsz < minsz || !s->saves || (s->complete && !broken(precopy_info_always)))
		return -EINVAL;
	info.flags = 0;
	info.initial_bytes = s->initial - min(s->initial, s->pos);
	info.dirty_bytes = s->size - max(s->initial, s->pos);
	if (s->lab->dirty)
		info.dirty_bytes += lab_record_size(s->lab);
	if (broken(precopy_info_grows))
		info.initial_bytes += ktime_get_ns();
	return copy_to_user((void __user *)arg, &info, minsz) ? -EFAULT : 0;
}

static int lab_release_file(struct inode *inode, struct file *filp)
{
	struct lab_stream *s = filp->private_data;

	vfio_put_device(&s->lab->core.vdev);
	kvfree(s);
	return 0;
}

static const struct file_operations lab_fops = {
	.owner = THIS_MODULE,
	.read = lab_read,
	.write = lab_write,
	.unlocked_ioctl = lab_precopy_info,
	.llseek = noop_llseek,
	.release = lab_release_file,
};

/* Begins a session; the device and user space have a reference to its file each. */
static struct file *lab_begin(struct lab_device *lab, int flags)
{
	struct lab_stream *s;
	struct file *filp;

	s = kvzalloc(struct_size(s, buf, 2 * lab_record_size(lab)), GFP_KERNEL_ACCOUNT);
	if (!s)
		return ERR_PTR(-ENOMEM);
	filp = anon_inode_getfile("[lab]", &lab_fops, s, broken(both_ways) ? O_RDWR : flags);
	if (IS_ERR(filp)) {
		kvfree(s);
		return filp;
	}
	stream_open(filp->f_inode, filp);
	if (broken(seekable))
		filp->f_mode |= FMODE_LSEEK | FMODE_PREAD | FMODE_PWRITE;
	s->filp = filp;
	s->lab = lab;
	s->saves = flags == O_RDONLY;
	get_device(&lab->core.vdev.device);
	lab->stream = s;
	return get_file(filp);
}

static struct file *lab_step(struct lab_device *lab, enum vfio_device_mig_state next)
{
	struct lab_stream *s = lab->stream;
	struct file *filp = NULL;

	switch (next) {
	case VFIO_DEVICE_STATE_PRE_COPY:
	case VFIO_DEVICE_STATE_PRE_COPY_P2P:
		if (s)
			return NULL;
		filp = lab_begin(lab, O_RDONLY);
		if (!IS_ERR(filp))
			lab->stream->initial = lab_append(lab->stream, false);
		return filp;
	case VFIO_DEVICE_STATE_RESUMING:
		return lab_begin(lab, O_WRONLY);
	case VFIO_DEVICE_STATE_STOP_COPY:
		if (broken(stop_copy_fails) || broken(stuck_error)) {
			lab_end(lab);
			lab->state = VFIO_DEVICE_STATE_ERROR;
			return ERR_PTR(-EIO);
		}
		if (!s)
			filp = lab_begin(lab, O_RDONLY);
		if (!IS_ERR(filp))
			lab_append(lab->stream, true);
		return filp;
	default:
		if (lab->state == VFIO_DEVICE_STATE_RESUMING) {
			if (s->error || (!s->complete && !broken(accepts_truncated)))
				return ERR_PTR(-EINVAL);
			if (!broken(load_loses))
				memcpy(lab->content, s->buf + lab_record_size(lab), lab->size);
		}
		lab_end(lab);
		return NULL;
	}
}

static struct file *lab_set_state(struct vfio_device *vdev, enum vfio_device_mig_state new)
{
	struct lab_device *lab = lab_of(vdev);
	enum vfio_device_mig_state next;
	struct file *filp = NULL;
	int err;

	guard(lab)(lab);
	if (lab->pf_left)
		return ERR_PTR(-ENOTCONN);
	if (broken(second_fd) && new == lab->state && lab->stream)
		return get_file(lab->stream->filp);
	while (new != lab->state && !IS_ERR(filp)) {
		if (lab->state == VFIO_DEVICE_STATE_ERROR)
			return ERR_PTR(-EINVAL);
		err = vfio_mig_get_next_state(vdev, lab->state, new, &next);
		if (err)
			return broken(forbidden_arc) ? NULL : ERR_PTR(err);
		filp = lab_step(lab, next);
		if (!IS_ERR(filp))
			lab->state = next;
	}
	return filp;
}

static int lab_get_state(struct vfio_device *vdev, enum vfio_device_mig_state *state)
{
	struct lab_device *lab = lab_of(vdev);

	guard(lab)(lab);
	*state = broken(wrong_state) ? VFIO_DEVICE_STATE_STOP : lab->state;
	return 0;
}

/* What is unread, and the last record; before a session that alone. */
static int lab_data_size(struct vfio_device *vdev, unsigned long *length)
{
	struct lab_device *lab = lab_of(vdev);
	struct lab_stream *s;

	guard(lab)(lab);
	s = lab->stream && lab->stream->saves ? lab->stream : NULL;
	*length = (s ? s->size - s->pos : 0) + (s && s->complete ? 0 : lab_record_size(lab));
	if (broken(data_size_small))
		*length /= 2;
	return 0;
}

static const struct vfio_migration_ops lab_mig_ops = {
	.migration_set_state = lab_set_state,
	.migration_get_state = lab_get_state,
	.migration_get_data_size = lab_data_size,
};
