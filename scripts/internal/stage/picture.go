package stage

import (
	"fmt"
	"os"
	"strconv"

	"revenant/nginx"
)

// Picture is the tutorial's picture: two instances and a front, and the ports
// that they have unless the environment says otherwise.
type Picture struct {
	Names      [2]string
	Ports      nginx.Ports
	RuntimeDir string
}

// Variables of the environment that move the picture elsewhere.
const (
	PortOneVariable     = "DEMO_PORT_ONE"
	PortTwoVariable     = "DEMO_PORT_TWO"
	PortStandbyVariable = "DEMO_PORT_STANDBY"
	PortFrontVariable   = "DEMO_PORT_FRONT"
	PortStatusVariable  = "DEMO_PORT_STATUS"
	runtimeDirVariable  = "REVENANT_RUNTIME_DIR"
)

// PictureFromEnv reads the ports and the runtime folder from the environment.
func PictureFromEnv() (Picture, error) {
	p := Picture{
		Names: [2]string{"one", "two"},
		Ports: nginx.Ports{
			Front: nginx.FrontPort, Status: nginx.StatusPort,
			Instances: [3]int{nginx.InstancePort, nginx.InstancePort + 1, nginx.InstancePort + 2},
		},
		RuntimeDir: os.Getenv(runtimeDirVariable),
	}
	for variable, port := range map[string]*int{
		PortOneVariable:     &p.Ports.Instances[0],
		PortTwoVariable:     &p.Ports.Instances[1],
		PortStandbyVariable: &p.Ports.Instances[2],
		PortFrontVariable:   &p.Ports.Front,
		PortStatusVariable:  &p.Ports.Status,
	} {
		value := os.Getenv(variable)
		if value == "" {
			continue
		}
		n, err := strconv.Atoi(value)
		if err != nil || n < 1 || n > 65535 {
			return p, fmt.Errorf("%s=%q: not a port (write a number from 1 to 65535)", variable, value)
		}
		*port = n
	}
	return p, nil
}

// Instance is the first (0) or the second (1) of the picture.
func (p Picture) Instance(binary string, n int) *Instance {
	return &Instance{Binary: binary, Name: p.Names[n], RuntimeDir: p.RuntimeDir, Listen: Target(p.Ports.Instances[n])}
}
