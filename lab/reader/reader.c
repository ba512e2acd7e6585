// SPDX-License-Identifier: Apache-2.0 OR MIT
/*
 * What the kernel says of a VFIO device, in its own numbers: a second reader, that has no line in common with vfioadm.
 *
 *   vfio-reader cdev /dev/vfio/devices/vfio3
 *   vfio-reader group /dev/vfio/12 0000:3b:00.2
 */

#include <errno.h>
#include <fcntl.h>
#include <linux/vfio.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

/* More than any kernel has. */
#define FEATURES	64
#define ROOM		65536

static int must(int answer, const char *what)
{
	if (answer < 0) {
		fprintf(stderr, "vfio-reader: %s: %s\n", what, strerror(errno));
		exit(1);
	}
	return answer;
}

static int by_cdev(const char *node)
{
	struct vfio_device_bind_iommufd bind = { .argsz = sizeof(bind) };
	int device = must(open(node, O_RDWR | O_CLOEXEC), node);

	bind.iommufd = must(open("/dev/iommu", O_RDWR | O_CLOEXEC), "/dev/iommu");
	must(ioctl(device, VFIO_DEVICE_BIND_IOMMUFD, &bind), "VFIO_DEVICE_BIND_IOMMUFD");
	return device;
}

static int by_group(const char *node, const char *name)
{
	int container = must(open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC), "/dev/vfio/vfio");
	int group = must(open(node, O_RDWR | O_CLOEXEC), node);

	must(ioctl(group, VFIO_GROUP_SET_CONTAINER, &container), "VFIO_GROUP_SET_CONTAINER");
	must(ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU), "VFIO_SET_IOMMU");
	return must(ioctl(group, VFIO_GROUP_GET_DEVICE_FD, name), "VFIO_GROUP_GET_DEVICE_FD");
}

/* The ids of a chain of capabilities, in its order, at the end of a line. */
static void print_caps(const void *info, __u32 at)
{
	while (at) {
		const struct vfio_info_cap_header *cap = (const void *)((const char *)info + at);

		printf(" %u", cap->id);
		at = cap->next;
	}
	printf("\n");
}

static int probe(int device, __u32 flags)
{
	struct vfio_device_feature feature = { .argsz = sizeof(feature), .flags = flags | VFIO_DEVICE_FEATURE_PROBE };

	return ioctl(device, VFIO_DEVICE_FEATURE, &feature) == 0;
}

static void print_migration(int device)
{
	struct vfio_device_feature_migration *migration;
	__u64 room[(sizeof(struct vfio_device_feature) + sizeof(*migration)) / sizeof(__u64)] = { 0 };
	struct vfio_device_feature *feature = (void *)room;

	feature->argsz = sizeof(room);
	feature->flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_MIGRATION;
	migration = (void *)feature->data;
	if (ioctl(device, VFIO_DEVICE_FEATURE, feature) == 0)
		printf("migration 0x%llx\n", (unsigned long long)migration->flags);
	else if (errno != ENOTTY)
		must(-1, "VFIO_DEVICE_FEATURE_MIGRATION");
}

int main(int argc, char **argv)
{
	static __u64 room[ROOM / sizeof(__u64)];
	struct vfio_device_info *info = (void *)room;
	struct vfio_region_info *region = (void *)room;
	__u32 regions, irqs, i;
	int device;

	if (argc == 3 && !strcmp(argv[1], "cdev"))
		device = by_cdev(argv[2]);
	else if (argc == 4 && !strcmp(argv[1], "group"))
		device = by_group(argv[2], argv[3]);
	else
		return fprintf(stderr, "vfio-reader: cdev NODE, or group NODE NAME\n"), 2;

	info->argsz = ROOM;
	must(ioctl(device, VFIO_DEVICE_GET_INFO, info), "VFIO_DEVICE_GET_INFO");
	regions = info->num_regions;
	irqs = info->num_irqs;
	printf("device flags 0x%x caps", info->flags);
	print_caps(info, info->flags & VFIO_DEVICE_FLAGS_CAPS ? info->cap_offset : 0);
	for (i = 0; i < regions; i++) {
		memset(room, 0, sizeof(room));
		region->argsz = ROOM;
		region->index = i;
		if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, region)) {
			must(errno == EINVAL ? 0 : -1, "VFIO_DEVICE_GET_REGION_INFO");
			continue;
		}
		printf("region %u size %llu flags 0x%x caps", i, (unsigned long long)region->size, region->flags);
		print_caps(region, region->flags & VFIO_REGION_INFO_FLAG_CAPS ? region->cap_offset : 0);
	}
	for (i = 0; i < irqs; i++) {
		struct vfio_irq_info irq = { .argsz = sizeof(irq), .index = i };

		if (ioctl(device, VFIO_DEVICE_GET_IRQ_INFO, &irq))
			must(errno == EINVAL ? 0 : -1, "VFIO_DEVICE_GET_IRQ_INFO");
		else
			printf("irq %u count %u flags 0x%x\n", i, irq.count, irq.flags);
	}
	for (i = 0; i < FEATURES; i++)
		if (probe(device, i))
			printf("feature %u get %d set %d\n", i, probe(device, i | VFIO_DEVICE_FEATURE_GET),
			       probe(device, i | VFIO_DEVICE_FEATURE_SET));
	print_migration(device);
	return 0;
}
