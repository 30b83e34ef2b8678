package watch

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// silent are file systems on which changes can be made elsewhere, of which inotify
// here tells nothing: networks, and folders of the host in a virtual machine.
var silent = map[int64]string{
	unix.NFS_SUPER_MAGIC:  "nfs",
	unix.SMB_SUPER_MAGIC:  "smb",
	unix.SMB2_SUPER_MAGIC: "smb2",
	unix.CIFS_SUPER_MAGIC: "cifs",
	unix.V9FS_MAGIC:       "9p",
	unix.FUSE_SUPER_MAGIC: "fuse or virtiofs",
	unix.AFS_SUPER_MAGIC:  "afs",
	unix.CEPH_SUPER_MAGIC: "ceph",
	0x786f4256:            "vboxsf",
	0x7c7c6673:            "prl_fs",
	0xbacbacbc:            "vmhgfs",
}

// silentRoot says which root is on one of them, "" when none is.
func silentRoot(roots []string) string {
	for _, root := range roots {
		var fs unix.Statfs_t
		if unix.Statfs(root, &fs) != nil {
			continue
		}
		if name := silent[int64(uint32(fs.Type))]; name != "" {
			return fmt.Sprintf("%s is on %s, which does not report every change", root, name)
		}
	}
	return ""
}
