# N hosts, each with one process.
#
# Why fixed instances: a run has a fixed number of processes, each with a number and an address that all others know
# before it starts (the hostfile). An auto scaling group or an ECS service replaces its members by strangers with
# neither. A host that dies is made again by `terraform apply`, with the same name; the job goes on from its state, and
# until then the others try again every few seconds.
#
# Why in one zone: a run needs all its processes, so that a second zone would add a way to fail, latency and
# 0.01 USD per GB that they exchange, and take no failure away. What must survive a zone, the state and the topics, does.

locals {
  peer_port = 2101
  http_port = 9464
  # In a private zone of the network.
  domain     = "${var.name}.highwater.internal"
  hosts      = [for i in range(var.processes) : "p${i}.${local.domain}"]
  hostfile   = join("", [for host in local.hosts : "${host}:${local.peer_port}\n"])
  config_key = "config/${var.name}.toml"

  config = templatefile("${path.module}/host/${var.pipeline}.toml.tftpl", {
    brokers   = aws_msk_cluster.this.bootstrap_brokers_sasl_scram
    bucket    = var.bucket
    name      = var.name
    user      = local.kafka_user
    workers   = var.workers
    http_port = local.http_port
  })

  # Of all hosts; HIGHWATER_PROCESS is that of each.
  environment = {
    AWS_REGION               = var.region
    HIGHWATER_PIPELINE       = var.pipeline
    HIGHWATER_PROCESSES      = var.processes
    HIGHWATER_PEER_PORT      = local.peer_port
    HIGHWATER_IMAGE          = var.image
    HIGHWATER_BUCKET         = var.bucket
    HIGHWATER_CONFIG_KEY     = local.config_key
    HIGHWATER_KAFKA_SECRET   = aws_secretsmanager_secret.kafka.arn
    HIGHWATER_CLUSTER_SECRET = aws_secretsmanager_secret.cluster.arn
    HIGHWATER_LOG_GROUP      = aws_cloudwatch_log_group.this.name
  }

  files = {
    "/etc/highwater/hosts"                  = { mode = "0644", text = local.hostfile }
    "/usr/local/bin/highwater-start"        = { mode = "0755", text = file("${path.module}/host/start.sh") }
    "/usr/local/bin/highwater-tool"         = { mode = "0755", text = file("${path.module}/host/tool.sh") }
    "/etc/systemd/system/highwater.service" = { mode = "0644", text = file("${path.module}/host/highwater.service") }
  }

  user_data = [for i in range(var.processes) : join("\n", ["#cloud-config", yamlencode({
    write_files = concat(
      [for path, file in local.files : { path = path, permissions = file.mode, content = file.text }],
      [{
        path        = "/etc/highwater/env"
        permissions = "0644"
        content     = join("", [for name, value in merge(local.environment, { HIGHWATER_PROCESS = i }) : "${name}=${value}\n"])
      }],
    )
    packages = ["docker"]
    # The job is started by `run start`, once its tables are there; then it comes back by itself after a reboot.
    runcmd = [["systemctl", "enable", "--now", "docker"]]
  })])]
}

# The flags of the job. Whatever changes here takes effect when the processes are started again.
resource "aws_s3_object" "config" {
  bucket       = var.bucket
  key          = local.config_key
  content      = local.config
  content_type = "application/toml"
}

resource "aws_cloudwatch_log_group" "this" {
  name              = "/highwater/${var.name}"
  retention_in_days = var.log_days
}

# Only for the newest Amazon Linux: instances take no parameter in place of an image's number.
resource "aws_launch_template" "host" {
  name     = "highwater-${var.name}"
  image_id = "resolve:ssm:/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
}

resource "aws_instance" "process" {
  count = var.processes

  instance_type               = var.instance_type
  subnet_id                   = aws_subnet.private[var.zones[0]].id
  vpc_security_group_ids      = [aws_security_group.processes.id]
  iam_instance_profile        = aws_iam_instance_profile.host.name
  user_data                   = local.user_data[count.index]
  user_data_replace_on_change = true

  launch_template {
    id      = aws_launch_template.host.id
    version = aws_launch_template.host.latest_version
  }

  metadata_options {
    http_tokens = "required"
    # Containers share the host's network: one hop.
    http_put_response_hop_limit = 1
  }

  root_block_device {
    volume_type = "gp3"
    volume_size = 20
    encrypted   = true
  }

  tags = {
    Name    = local.hosts[count.index]
    job     = var.name
    process = count.index
  }

  # The first start needs packages and an image.
  depends_on = [aws_route_table_association.private, aws_vpc_endpoint.s3, aws_iam_role_policy.host]
}

resource "aws_route53_zone" "this" {
  name = local.domain

  vpc {
    vpc_id = aws_vpc.this.id
  }
}

resource "aws_route53_record" "process" {
  count = var.processes

  zone_id = aws_route53_zone.this.zone_id
  name    = local.hosts[count.index]
  type    = "A"
  ttl     = 10
  records = [aws_instance.process[count.index].private_ip]
}
