# A network of its own. Brokers and processes are in private subnets, one in each of three zones, and nobody can call
# them; what they call goes through a NAT gateway, and to S3 (state, results, layers of the image, packages) through
# a gateway endpoint, which costs nothing.

locals {
  cidr = "10.20.0.0/16"
  # The letter of a zone, and the number of its subnet.
  zones = { for i, letter in var.zones : letter => i }
}

resource "aws_vpc" "this" {
  cidr_block           = local.cidr
  enable_dns_hostnames = true
  enable_dns_support   = true

  tags = { Name = "highwater-${var.name}" }
}

resource "aws_subnet" "private" {
  for_each = local.zones

  vpc_id            = aws_vpc.this.id
  availability_zone = "${var.region}${each.key}"
  cidr_block        = cidrsubnet(local.cidr, 8, each.value)

  tags = { Name = "highwater-${var.name}-private-${each.key}" }
}

# For the NAT gateway alone.
resource "aws_subnet" "public" {
  vpc_id            = aws_vpc.this.id
  availability_zone = "${var.region}${var.zones[0]}"
  cidr_block        = cidrsubnet(local.cidr, 8, 100)

  tags = { Name = "highwater-${var.name}-public" }
}

resource "aws_internet_gateway" "this" {
  vpc_id = aws_vpc.this.id
}

resource "aws_eip" "nat" {
  domain = "vpc"

  depends_on = [aws_internet_gateway.this]
}

# One, in the zone of the processes: without them the other zones have nothing to say.
resource "aws_nat_gateway" "this" {
  allocation_id = aws_eip.nat.id
  subnet_id     = aws_subnet.public.id

  depends_on = [aws_internet_gateway.this]
}

resource "aws_route_table" "public" {
  vpc_id = aws_vpc.this.id

  route {
    cidr_block = "0.0.0.0/0"
    gateway_id = aws_internet_gateway.this.id
  }
}

resource "aws_route_table" "private" {
  vpc_id = aws_vpc.this.id

  route {
    cidr_block     = "0.0.0.0/0"
    nat_gateway_id = aws_nat_gateway.this.id
  }
}

resource "aws_route_table_association" "public" {
  subnet_id      = aws_subnet.public.id
  route_table_id = aws_route_table.public.id
}

resource "aws_route_table_association" "private" {
  for_each = aws_subnet.private

  subnet_id      = each.value.id
  route_table_id = aws_route_table.private.id
}

resource "aws_vpc_endpoint" "s3" {
  vpc_id            = aws_vpc.this.id
  service_name      = "com.amazonaws.${var.region}.s3"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = [aws_route_table.private.id]
}

resource "aws_security_group" "processes" {
  name        = "highwater-${var.name}-processes"
  description = "The processes of the run"
  vpc_id      = aws_vpc.this.id
}

resource "aws_security_group" "brokers" {
  name        = "highwater-${var.name}-brokers"
  description = "The brokers of MSK"
  vpc_id      = aws_vpc.this.id
}

# Connections between processes are authenticated, not encrypted: only they can make them.
resource "aws_vpc_security_group_ingress_rule" "peers" {
  security_group_id            = aws_security_group.processes.id
  description                  = "Processes of one run, among themselves"
  referenced_security_group_id = aws_security_group.processes.id
  ip_protocol                  = "tcp"
  from_port                    = local.peer_port
  to_port                      = local.peer_port
}

resource "aws_vpc_security_group_egress_rule" "processes" {
  security_group_id = aws_security_group.processes.id
  description       = "Brokers, S3, ECR, Systems Manager, Secrets Manager, CloudWatch"
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "-1"
}

resource "aws_vpc_security_group_ingress_rule" "kafka" {
  security_group_id            = aws_security_group.brokers.id
  description                  = "SASL/SCRAM over TLS, from the processes"
  referenced_security_group_id = aws_security_group.processes.id
  ip_protocol                  = "tcp"
  from_port                    = local.kafka_port
  to_port                      = local.kafka_port
}
